//! Who may knock on which port: from the text that a person writes to the image that the kernel's
//! maps are filled with.
//!
//! # What this room promises
//!
//! * Text becomes a type that cannot be wrong, or a message that says what to write instead: see
//!   [`Prefix`] and [`Port`]. There is no validation afterwards.
//! * A source is allowed if some allow rule covers it and no deny rule does, whatever the lengths
//!   of the prefixes. Nothing else lets a source in. [`compile`] turns this into a [`trie`], [`deciding_rule`] names the rule behind an answer.
//! * [`compile`] is a function of its input alone, independent of the order of the rules, with
//!   sorted output: the same rules always give the same image.
//! * The two address families never mix: an IPv4 rule cannot say anything about an IPv6 source.
//!
//! # What is deliberately not here
//!
//! Input and output, file descriptors and clocks, and looking up names: a rule holds addresses. A [`NameRule`]
//! holds a name, and what its addresses are somebody else finds out. Whether a prefix of everyone is
//! wanted is asked where it is written, not here: see [`Prefix::is_everyone`].

#![forbid(unsafe_code)]

mod change;
mod compile;
mod compiled;
mod decide;
mod digest;
mod end;
mod image;
mod inside;
mod layout;
mod limits;
pub mod list;
mod name;
mod pattern;
mod port;
mod prefix;
#[cfg(test)]
mod properties;
pub mod proposal;
mod rule;
pub mod trie;

pub use self::{
    change::{Change, Commented, Named, NamedHost, Reversal},
    compile::{CompileError, Policy, compile},
    compiled::Compiled,
    decide::deciding_rule,
    digest::{Digest, Digests},
    end::{End, EndError, LONGEST, duration, span},
    image::{MapImage, ServiceImage},
    layout::{Layout, Service, Statement},
    limits::Limits,
    name::{HostName, NameError, NameRule, NameSaid, Subject, SubjectError},
    pattern::{Pattern, PatternError},
    port::{Port, PortError},
    prefix::{Family, Prefix, PrefixError},
    rule::{Effect, Origin, Rule, Said},
    trie::RuleTable,
};

use self::inside::Inside;

/// A text as a message quotes it: in quotes, without control characters, and clipped.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", clipped(text))
}

/// The beginning of a text, on one line and without control characters.
///
/// What is shown was written by somebody else and ends up in terminals and logs.
pub(crate) fn clipped(text: &str) -> String {
    const MOST: usize = 60;
    let mut shown = String::new();
    for character in text.chars().take(MOST) {
        match character {
            '"' | '\'' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    if text.chars().nth(MOST).is_some() {
        shown.push_str("...");
    }
    shown
}
