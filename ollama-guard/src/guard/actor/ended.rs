//! Rules that come to their end, told to whoever wants to know later.

use jiff::Timestamp;
use nix::unistd::geteuid;

use super::{Actor, write};
use crate::{
    audit_log::Entry,
    control::protocol::LateEnd,
    guard::{Ended, Moment},
    policy::{Effect, End, Origin, span},
};

/// Seconds behind its end from which on a rule has ended late.
const LATE: i64 = 3;
/// Rules that are named in the log; of more there is the number.
const NAMED: usize = 20;

/// A rule that has ended: whom it was about, where it was written, and its end.
type One<'r> = (String, &'r Origin, Option<End>);

impl Actor {
    /// Ends what has come to its end.
    pub(super) fn look_at_clock(&mut self) {
        if !self.guard.awaits_something() {
            return;
        }
        let now = Moment::now();
        self.revert_due(&now);
        let ended = self.guard.end_due(&now);
        self.tell(&ended, now.wall);
        if !ended.names.is_empty() {
            self.publish_names();
        }
        self.lapse_names(&now);
    }

    /// Says what has ended: in the log, in the audit log, and in `status` if it was late.
    pub(super) fn tell(&mut self, ended: &Ended, now: Timestamp) {
        let Ended { rules, names, troubles } = ended;
        for effect in [Effect::Allow, Effect::Deny] {
            let of_prefixes = rules.iter().filter(|rule| rule.effect == effect);
            let of_names = names.iter().filter(|rule| rule.effect == effect);
            let ended: Vec<_> = of_prefixes
                .map(|rule| (rule.prefix.to_string(), &*rule.origin, rule.expires))
                .chain(of_names.map(|rule| (rule.name.written(), &*rule.origin, rule.expires)))
                .collect();
            if !ended.is_empty() {
                self.tell_of(effect, &ended, now);
            }
        }
        for trouble in troubles {
            tracing::error!("what has ended is not gone everywhere, and is tried again: {trouble}");
        }
        let is_done = !self.guard.has_unfinished();
        if !troubles.is_empty() || (is_done && !self.standing.borrow().troubles.is_empty()) {
            let troubles = troubles
                .iter()
                .map(|trouble| format!("a rule has ended and is not gone everywhere: {trouble}"));
            let troubles = troubles.collect();
            self.standing.send_modify(|standing| standing.troubles = troubles);
        }
    }

    fn tell_of(&mut self, effect: Effect, rules: &[One<'_>], now: Timestamp) {
        let generation = self.guard.generation();
        let late = |rule: &One<'_>| rule.2.map_or(0, |end| -end.seconds_from(now));
        for rule in rules.iter().take(NAMED) {
            let (prefix, written) = (&rule.0, rule.1);
            match late(rule) {
                seconds if seconds >= LATE => {
                    tracing::warn!("ended, {} late: {effect} {prefix} ({written})", span(seconds))
                }
                _ => tracing::info!("ended: {effect} {prefix} ({written})"),
            }
        }
        if rules.len() > NAMED {
            tracing::info!("ended: {} {effect} rules more", rules.len() - NAMED);
        }
        let is_ours = |rule: &&One<'_>| matches!(rule.1, Origin::Cli { .. });
        for rule in rules.iter().filter(is_ours).filter(|rule| late(rule) >= LATE) {
            let Some(expires) = rule.2 else { continue };
            let (prefix, late_seconds) = (rule.0.clone(), late(rule));
            self.standing.send_modify(|standing| {
                standing.remember(LateEnd { prefix, effect, expires, late_seconds });
            });
        }
        let prefixes: Vec<_> = rules.iter().map(|rule| rule.0.clone()).collect();
        let latest = rules.iter().map(late).max().filter(|seconds| *seconds >= LATE);
        let comment = latest.map(|seconds| format!("{} late", span(seconds)));
        let entry = Entry {
            time: now,
            uid: geteuid().as_raw(),
            pid: i32::try_from(std::process::id()).ok(),
            user: None,
            action: "expired",
            effect: Some(effect.name()),
            prefixes: &prefixes,
            comment: comment.as_deref(),
            generation: (generation > 0).then_some(generation),
            result: Ok(()),
        };
        write(&mut self.audit, &entry);
    }
}
