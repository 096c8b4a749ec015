//! What is to be done about a stranger, asked once more before it is done.

use std::net::IpAddr;

use super::strangers::Stranger;
use crate::policy::Effect;

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// A rule, as `allow add` and `deny add` make it.
    Rule(Effect),
    /// Left out of this screen.
    Ignore,
}

/// A question that waits for its answer. What it is about stays the same, whatever the list does.
#[derive(Clone, Debug)]
pub(super) struct Dialog {
    pub(super) deed: Deed,
    address: IpAddr,
    network: Option<String>,
    /// Whether it is about the whole network.
    is_wide: bool,
    reason: String,
    /// How the command finds the daemon, if it has to be told.
    socket: Option<String>,
}

impl Dialog {
    /// About this stranger. An IPv6 one is let in by its address, and shut out by its network.
    pub(super) fn about(stranger: &Stranger, deed: Deed, socket: Option<String>) -> Self {
        let network = stranger.network();
        let is_wide = network.is_some() && deed != Deed::Rule(Effect::Allow);
        let (address, reason) = (stranger.address, stranger.reason.clone());
        Self { deed, address, network, is_wide, reason, socket }
    }

    /// Whether there is a choice between an address and its network.
    pub(super) const fn has_network(&self) -> bool {
        self.network.is_some()
    }

    /// Chooses the other one of the two.
    pub(super) const fn switch(&mut self) {
        self.is_wide = self.network.is_some() && !self.is_wide;
    }

    /// Whom it is about.
    pub(super) fn prefix(&self) -> String {
        match &self.network {
            Some(network) if self.is_wide => network.clone(),
            _ => self.address.to_string(),
        }
    }

    pub(super) fn title(&self) -> &'static str {
        match self.deed {
            Deed::Rule(Effect::Allow) => "Let this source in?",
            Deed::Rule(Effect::Deny) => "Shut this source out for good?",
            Deed::Ignore => "Leave this source out of the screen?",
        }
    }

    /// The command that does the same.
    pub(super) fn command(&self) -> String {
        let prefix = self.prefix();
        let socket = match &self.socket {
            Some(path) => format!(" --socket {path}"),
            None => String::new(),
        };
        match self.deed {
            Deed::Rule(effect) => format!("ollama-guard {effect} add {prefix}{socket}"),
            Deed::Ignore => format!("ollama-guard top --ignore {prefix}{socket}"),
        }
    }

    /// What it changes, a sentence each.
    pub(super) fn changes(&self) -> Vec<String> {
        let who =
            if self.is_wide { format!("Everybody in {}", self.prefix()) } else { self.prefix() };
        let undo = |effect: Effect| {
            format!("Taken back by: ollama-guard {effect} remove {}", self.prefix())
        };
        match self.deed {
            Deed::Rule(effect @ Effect::Allow) => {
                let mut lines = vec![format!(
                    "{who} may reach every guarded port from now on, also after a restart."
                )];
                if self.reason == "denied" {
                    lines.push(
                        "But a deny rule covers it, and deny always wins: it stays shut out until \
                         that rule is removed."
                            .into(),
                    );
                }
                lines.push(undo(effect));
                lines
            }
            Deed::Rule(effect @ Effect::Deny) => vec![
                format!(
                    "{who} may reach no guarded port from now on, whatever allows it, also after \
                     a restart. Open connections stall."
                ),
                undo(effect),
            ],
            Deed::Ignore => vec![
                "It is not shown until you quit or press I. The guard goes on as it is, and counts \
                 it."
                .into(),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::top::strangers::{
        Choice, Strangers,
        tests::{event, time},
    };

    fn dialog(source: &str, deed: Deed) -> Dialog {
        let mut strangers = Strangers::default();
        strangers.take(&event(source, 0, 1));
        Dialog::about(strangers.chosen(&Choice::default(), time(0))[0], deed, None)
    }

    const ALLOW: Deed = Deed::Rule(Effect::Allow);
    const DENY: Deed = Deed::Rule(Effect::Deny);

    #[test]
    fn the_command_is_the_one_that_does_the_same() {
        assert_eq!(dialog("192.0.2.9", ALLOW).command(), "ollama-guard allow add 192.0.2.9");
        assert_eq!(dialog("192.0.2.9", DENY).command(), "ollama-guard deny add 192.0.2.9");
        let mut elsewhere = dialog("192.0.2.9", Deed::Ignore);
        elsewhere.socket = Some("/run/x.sock".into());
        assert_eq!(elsewhere.command(), "ollama-guard top --ignore 192.0.2.9 --socket /run/x.sock");
    }

    #[test]
    fn one_ipv6_address_is_let_in_and_its_network_shut_out_unless_switched() {
        let mut allow = dialog("2001:db8:bad::66", ALLOW);
        assert_eq!(allow.prefix(), "2001:db8:bad::66");
        allow.switch();
        assert_eq!(allow.command(), "ollama-guard allow add 2001:db8:bad::/64");
        assert!(allow.changes()[0].starts_with("Everybody in 2001:db8:bad::/64 may reach"));
        let mut deny = dialog("2001:db8:bad::66", DENY);
        assert_eq!(deny.prefix(), "2001:db8:bad::/64");
        deny.switch();
        assert_eq!(deny.prefix(), "2001:db8:bad::66");
        let mut four = dialog("192.0.2.9", DENY);
        four.switch();
        assert_eq!(four.prefix(), "192.0.2.9");
    }

    #[test]
    fn what_allowing_does_not_change_is_said() {
        let mut denied = dialog("192.0.2.9", ALLOW);
        assert_eq!(denied.changes().len(), 2);
        denied.reason = "denied".into();
        assert!(denied.changes()[1].contains("deny always wins"), "{:?}", denied.changes());
    }
}
