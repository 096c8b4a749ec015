//! From the sources that were seen at guarded ports to an allowlist that a person reads, and then puts in
//! force.
//!
//! What it promises, and the properties beside it check:
//!
//! * Whoever talked, and no deny rule covers, is let in by the proposal or by a rule that stays; but who
//!   was let in wherever it came, by a rule for some services or interfaces, is not proposed for all.
//! * No network is proposed that holds a source which a deny rule covers, or which was seen and did not
//!   talk: then its members are proposed one by one.
//! * The allow rules that were added by command are all in it, with their ends, as `allow replace` puts it
//!   in their place; those about host names as names, and not as the addresses of the day. Those for some
//!   services or interfaces are named beside it: a list can't say them.
//!
//! Only packets that come in were seen, and whoever can make up a source can make up a conversation. So
//! everything has its numbers beside it, and a person decides.
//!
//! Long because who is proposed, and who is not and why, is decided in one place.

mod by;
mod rules;
mod text;
mod widen;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use jiff::Timestamp;
use ollama_guard_common::{Mode, traits};
use serde::{Deserialize, Serialize};

use self::{by::By, rules::RuleIndex, widen::Widening};
use super::{End, Prefix, Rule};

pub use self::by::Resolved;

/// Entries of each group that is not proposed: of a scan or a flood the rest is a number.
const MOST_TOLD: usize = 100;

/// Packets without data from which on somebody is taken for one end of a connection that was there
/// before: a scanner sends a few.
const MANY_ACKS: u64 = 10;

/// One source that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its address.
    pub source: IpAddr,
    /// Packets that the rules let pass.
    pub allowed: u64,
    /// Packets that they do not, whether that was carried out or not.
    pub refused: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// The first packet.
    pub first: Timestamp,
    /// The last one.
    pub last: Timestamp,
    /// Bits of [`traits`].
    pub traits: u64,
}

/// What there is to propose from.
#[derive(Clone, Copy, Debug)]
pub struct Observations<'a> {
    /// Whom was seen, each once.
    pub sightings: &'a [Sighting],
    /// The mode at the time.
    pub mode: Mode,
    /// When it began.
    pub since: Timestamp,
    /// When it ended.
    pub until: Timestamp,
    /// Packets of sources that there was no room for.
    pub homeless: u64,
    /// The networks that this host's interfaces are in.
    pub networks: &'a [IpNet],
    /// The rules in force, but for those that names come to.
    pub rules: &'a [Rule],
    /// The rules about names.
    pub names: &'a [Resolved],
}

/// An allowlist, and all that was seen beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The whole.
    pub summary: Summary,
    /// In the order of the groups, and of addresses within.
    pub entries: Vec<Entry>,
}

/// Numbers of the whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// When it began.
    pub since: Timestamp,
    /// When it ended.
    pub until: Timestamp,
    /// "enforce" or "observe".
    pub mode: String,
    /// Whether there was room for every source.
    pub complete: bool,
    /// Packets of sources that there was no room for.
    pub homeless: u64,
    /// Sources that were seen.
    pub sources: u64,
    /// Their packets.
    pub packets: u64,
    /// Sources that talked.
    pub talked: u64,
    /// By group, entries that are left out because there are too many, and their packets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub untold: BTreeMap<Group, (u64, u64)>,
}

/// A line of the proposal, or a remark on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Why it is there.
    pub group: Group,
    /// An address, a network or a host name.
    pub prefix: String,
    /// When the rule that stays ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<End>,
    /// Sources in it that were seen.
    pub sources: u64,
    /// Packets of theirs that the rules let pass.
    pub allowed: u64,
    /// Packets of theirs that they do not.
    pub refused: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// The first packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<Timestamp>,
    /// The last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// What else there is to know; of a rule that stays, its comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Why an entry is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// An allow rule that was added by command: it stays.
    Kept,
    /// It talked, from a network that is nobody else's: RFC 1918 and 6598, unique local, link-local.
    Local,
    /// It talked, from anywhere else.
    Public,
    /// A rule of the configuration lets it in already.
    Allowed,
    /// A rule lets it in at some services or interfaces, and it was nowhere else.
    Limited,
    /// Whether it talks can't be told.
    Unclear,
    /// It never talked.
    Knocking,
    /// A deny rule keeps it out.
    Denied,
}

impl Group {
    /// Whether its entries are part of the proposed list, and no remarks.
    #[must_use]
    pub const fn is_proposed(self) -> bool {
        matches!(self, Self::Kept | Self::Local | Self::Public)
    }
}

/// What a source's packets tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conversation {
    Talked,
    /// Whether it talks can't be told, and why: the second half of a sentence about it.
    Unclear(&'static str),
    Knocked,
}

impl Sighting {
    /// All packets.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.allowed.saturating_add(self.refused)
    }

    const fn shows(&self, traits: u64) -> bool {
        self.traits & traits != 0
    }

    fn conversation(&self) -> Conversation {
        // The receiving end of a long answer sends nothing else.
        let is_listening =
            self.shows(traits::ACK) && !self.shows(traits::SYN) && self.packets() >= MANY_ACKS;
        if self.shows(traits::DATA) || is_listening {
            Conversation::Talked
        } else if self.shows(traits::DATA_DROPPED) {
            Conversation::Unclear("sends data, which is dropped: it may have been let in before")
        } else if !self.shows(traits::SYN | traits::ACK) && self.shows(traits::DATAGRAM) {
            Conversation::Unclear("sent datagrams, which do not tell whether it was answered")
        } else {
            Conversation::Knocked
        }
    }
}

/// Makes a proposal.
#[must_use]
pub fn propose(seen: &Observations<'_>) -> Proposal {
    let rules = RuleIndex::new(seen.rules, seen.names);
    let mut by_rule = by::kept(seen.rules, seen.names);
    let (mut talked, mut others, mut avoided) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut conversations = 0;
    for sighting in seen.sightings {
        let conversation = sighting.conversation();
        conversations += u64::from(conversation == Conversation::Talked);
        if let Some(rule) = rules.deciding(sighting.source) {
            let group = rule.group();
            let new = || Entry::of_rule(group, rule);
            by_rule.entry(rule.place(group)).or_insert_with(new).add(sighting);
            if group == Group::Denied {
                avoided.insert(sighting.source);
            }
            continue;
        }
        if let Some(rule) = rules.limited(sighting.source).filter(|_| sighting.refused == 0) {
            let new = || Entry::of_rule(Group::Limited, rule);
            by_rule.entry(rule.place(Group::Limited)).or_insert_with(new).add(sighting);
            avoided.insert(sighting.source);
            continue;
        }
        match judge(sighting, conversation, seen.mode) {
            Conversation::Talked => {
                talked.push(sighting);
                continue;
            }
            Conversation::Unclear(why) => others.push(Entry {
                note: Some(why.into()),
                ..Entry::of_source(Group::Unclear, sighting)
            }),
            Conversation::Knocked => others.push(Entry::of_source(Group::Knocking, sighting)),
        }
        avoided.insert(sighting.source);
    }
    let mut entries =
        widen::propose(&talked, &Widening { networks: seen.networks, avoided, rules });
    entries.extend(by_rule.into_values());
    entries.extend(others);
    let untold = cut(&mut entries);
    let summary = Summary {
        since: seen.since,
        until: seen.until,
        mode: seen.mode.name().into(),
        complete: seen.homeless == 0,
        homeless: seen.homeless,
        sources: seen.sightings.len() as u64,
        packets: seen.sightings.iter().map(Sighting::packets).sum(),
        talked: conversations,
        untold,
    };
    Proposal { summary, entries }
}

/// What is made of a source that no rule covers.
fn judge(sighting: &Sighting, conversation: Conversation, mode: Mode) -> Conversation {
    match conversation {
        Conversation::Talked if mode == Mode::Enforce => {
            Conversation::Unclear("talked, until the rule that let it in was taken away")
        }
        Conversation::Talked if Prefix::try_from(IpNet::from(sighting.source)).is_err() => {
            Conversation::Unclear("has an address that no rule can let in")
        }
        conversation => conversation,
    }
}

/// Puts the entries in order, and of those that are no part of the list leaves the ones with the fewest
/// packets out if there are too many.
fn cut(entries: &mut Vec<Entry>) -> BTreeMap<Group, (u64, u64)> {
    entries.sort_by_key(|entry| {
        let most_first = if entry.group.is_proposed() { 0 } else { u64::MAX - entry.packets() };
        (entry.group, most_first)
    });
    let (mut told, mut untold) = (BTreeMap::<Group, usize>::new(), BTreeMap::new());
    entries.retain(|entry| {
        let place = told.entry(entry.group).or_default();
        *place += 1;
        let is_told = entry.group.is_proposed() || *place <= MOST_TOLD;
        if !is_told {
            let (entries, packets) = untold.entry(entry.group).or_insert((0_u64, 0_u64));
            *entries += 1;
            *packets += entry.packets();
        }
        is_told
    });
    untold
}

impl Entry {
    fn new(group: Group, prefix: String) -> Self {
        let (sources, allowed, refused, bytes) = (0, 0, 0, 0);
        let (expires, first, last, note) = (None, None, None, None);
        Self { group, prefix, expires, sources, allowed, refused, bytes, first, last, note }
    }

    fn of_source(group: Group, sighting: &Sighting) -> Self {
        let mut entry = Self::new(group, sighting.source.to_string());
        entry.add(sighting);
        entry
    }

    fn of_rule(group: Group, rule: By<'_>) -> Self {
        let note = match (group, rule.limits()) {
            (Group::Kept, _) => rule.comment().map(str::to_owned),
            (_, Some(limits)) => Some(format!("{limits}; {}", rule.written())),
            (_, None) => Some(rule.written()),
        };
        Self { note, expires: rule.expires(), ..Self::new(group, rule.whom().written()) }
    }

    fn add(&mut self, sighting: &Sighting) {
        self.sources += 1;
        self.allowed += sighting.allowed;
        self.refused += sighting.refused;
        self.bytes += sighting.bytes;
        self.first = Some(self.first.map_or(sighting.first, |first| first.min(sighting.first)));
        self.last = self.last.max(Some(sighting.last));
    }

    /// All packets.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.allowed.saturating_add(self.refused)
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
