//! Host names: what came of looking them up, put in force and told.

use jiff::Timestamp;
use nix::unistd::geteuid;

use super::{Actor, write};
use crate::{
    audit_log::Entry,
    guard::{Moment, Moved, book::Difference},
    names::Found,
};

impl Actor {
    /// Takes note of what came of looking a name up.
    pub(super) fn hear(&mut self, found: Found) {
        let name = found.name.clone();
        let before = self.error_of(&found.name);
        if let Err(error) = &found.outcome
            && before.as_deref() != Some(error)
        {
            tracing::warn!(
                "the name {name} is not resolved, and its addresses stay as they are: {error}"
            );
        }
        let was_answered = found.outcome.is_ok();
        let moved = self.guard.hear(found, &Moment::now());
        if was_answered && before.is_some() && moved.trouble.is_none() {
            tracing::info!("the name {name} is resolved again");
        }
        self.tell_of_names(&moved, "resolved");
    }

    /// Does without what had no answer for too long.
    pub(super) fn lapse_names(&mut self, now: &Moment) {
        let moved = self.guard.lapse_names(now);
        if !moved.differences.is_empty() || moved.trouble.is_some() {
            self.tell_of_names(&moved, "lapsed");
            self.publish_names();
        }
    }

    /// Says which names there are, to whoever looks them up and whoever shows them.
    pub(super) fn publish_names(&mut self) {
        let (wanted, views) = (self.guard.wanted(), self.guard.name_views());
        self.wanted.send_if_modified(|known| {
            let is_new = *known != wanted;
            *known = wanted;
            is_new
        });
        self.standing.send_if_modified(|standing| {
            let is_new = standing.names != views;
            standing.names = views;
            is_new
        });
    }

    fn error_of(&self, name: &crate::policy::HostName) -> Option<String> {
        let standing = self.standing.borrow();
        let known = standing.names.iter().find(|view| view.name == name.written());
        known.and_then(|view| view.error.clone())
    }

    fn tell_of_names(&mut self, moved: &Moved, action: &str) {
        if let Some(trouble) = &moved.trouble {
            tracing::error!("an answer about a name is not put in force: {trouble}");
        }
        let generation = self.guard.generation();
        for Difference { name, came, went, .. } in &moved.differences {
            let signed = |sign: char, addresses: &[std::net::IpAddr]| {
                addresses.iter().map(|address| format!("{sign}{address}")).collect::<Vec<_>>()
            };
            let changes = [signed('+', came), signed('-', went)].concat();
            let text = changes.join(" ");
            tracing::info!(
                "the name {name} is {action}: {text}, generation {generation} is in force"
            );
            if came.is_empty() && action == "resolved" {
                tracing::warn!("the name {name} has lost addresses: {text}");
            }
            let comment = format!("name {name}: {text}");
            let prefixes: Vec<_> =
                came.iter().chain(went).map(std::net::IpAddr::to_string).collect();
            let entry = Entry {
                time: Timestamp::now(),
                uid: geteuid().as_raw(),
                pid: i32::try_from(std::process::id()).ok(),
                user: None,
                action,
                effect: None,
                prefixes: &prefixes,
                comment: Some(&comment),
                generation: (generation > 0).then_some(generation),
                result: Ok(()),
            };
            write(&mut self.audit, &entry);
        }
    }
}
