//! Rules of the packet filter that send packets for one port to another, or give them another
//! source.
//!
//! XDP sees packets before any of these rules: with the port that they arrive with. Both filters
//! are read through their own programs (`nft -j list ruleset`, `iptables-save` of both kinds and
//! families) into one form, [`Ruleset`]; everything else is done on that. Conditions that are not
//! understood are passed over, so that a path is rather told too often than not at all.

mod commands;
mod iptables;
mod nft;
mod port_set;
mod ruleset;

use std::{collections::BTreeMap, net::IpAddr};

use ollama_guard_common::Protocol;
use serde::Serialize;

use super::{
    facts::{Facts, NotSeen},
    finding::{Finding, Severity},
};

pub use port_set::PortSet;
use ruleset::{Action, Ruleset};

/// A rule that sends packets to a port, with the ports that lead to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Translation {
    /// Where the rule stands.
    pub place: String,
    /// The ports that packets arrive with, from the chain's hook on.
    pub from: PortSet,
    /// The protocol; `None` for all.
    #[serde(serialize_with = "name_of")]
    pub protocol: Option<Protocol>,
    /// Where they are sent; `None` for this host itself.
    pub to: Option<String>,
    /// The ports that they are sent to; `None` for the same.
    pub to_ports: Option<PortSet>,
}

/// A rule that gives packets another source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceNat {
    /// Where the rule stands.
    pub place: String,
    /// The source that it gives; `None` for the address of the interface they leave by.
    pub to: Option<IpAddr>,
    /// That interface, if the rule names one.
    pub out: Option<String>,
    /// The source ports that it may give; `None` if it is not bound.
    pub ports: Option<PortSet>,
}

/// What the rules of this network namespace do.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) translations: Vec<Translation>,
    pub(super) source_nat: Vec<SourceNat>,
}

fn name_of<S: serde::Serializer>(protocol: &Option<Protocol>, to: S) -> Result<S::Ok, S::Error> {
    protocol.map(Protocol::name).serialize(to)
}

/// Reads the rules by the filters' own programs.
pub(super) async fn collect(not_seen: &mut Vec<NotSeen>) -> Rules {
    let ruleset = commands::read(not_seen).await;
    conclude(&ruleset)
}

fn conclude(ruleset: &Ruleset) -> Rules {
    let mut rules = Rules::default();
    for rule in &ruleset.rules {
        match &rule.action {
            Action::Translate { to, to_ports } => {
                // Several ways may lead to one rule: they are one set of ports.
                let mut ways: BTreeMap<Option<Protocol>, PortSet> = BTreeMap::new();
                for (protocol, ports) in ruleset.ways_to(rule) {
                    let way = ways.entry(protocol).or_default();
                    *way = way.union(&ports);
                }
                rules.translations.extend(ways.into_iter().map(|(protocol, from)| Translation {
                    place: rule.place.clone(),
                    from,
                    protocol,
                    to: to.clone(),
                    to_ports: to_ports.clone(),
                }));
            }
            Action::Source { to, out, ports } => rules.source_nat.push(SourceNat {
                place: rule.place.clone(),
                to: *to,
                out: out.clone(),
                ports: ports.clone(),
            }),
            Action::Jump(_) => {}
        }
    }
    rules
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let around = facts.translations.iter().flat_map(|one| ways_around(facts, one));
    around.chain(source_nat(facts)).collect()
}

/// A rule that leads from a port that is not guarded to one that is.
fn ways_around(facts: &Facts, rule: &Translation) -> Vec<Finding> {
    let is_for = |protocol| rule.protocol.is_none_or(|wanted| wanted == protocol);
    let guarded = facts.guard.ports.iter().map(|port| (port.protocol, port.number));
    let served = facts.served().into_iter().map(|port| (Protocol::Tcp, port));
    let mut targets: Vec<_> =
        guarded.chain(served).filter(|(protocol, _)| is_for(*protocol)).collect();
    targets.sort_unstable();
    targets.dedup();
    let mut findings = Vec::new();
    for (protocol, target) in targets {
        let from = match &rule.to_ports {
            Some(ports) if !ports.contains(target) => continue,
            Some(_) => rule.from.clone(),
            None if rule.from.contains(target) => PortSet::one(target),
            None => continue,
        };
        let ours = facts.guard.ports.iter().filter(|port| port.protocol == protocol);
        let from = ours.fold(from, |from, port| from.without(port.number));
        if from.is_empty() {
            continue;
        }
        let to = match &rule.to {
            Some(address) => format!("{address}, port {target}"),
            None => format!("port {target} of this host"),
        };
        let advice = match from.single() {
            Some(port) => format!("guard {port}/{} too (`--port {port}`)", protocol.name()),
            None => "guard those of these ports that are in use too, or narrow the rule".into(),
        };
        findings.push(Finding::new(
            "port-translation",
            Severity::Open,
            format!(
                "{} sends {} {from} to {to}: packets arrive with a port that is not guarded",
                rule.place,
                protocol.name()
            ),
            advice,
        ));
    }
    findings
}

/// Masquerading: whom it hides, and whom it can hurt.
fn source_nat(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in &facts.source_nat {
        let hidden: Vec<IpAddr> = match (rule.to, &rule.out) {
            (Some(address), _) => vec![address],
            (None, out) => {
                let ours = facts.addresses.iter().filter(|one| !one.address.is_loopback());
                let leaving =
                    ours.filter(|one| out.as_ref().is_none_or(|out| *out == one.interface));
                leaving.map(|one| one.address).collect()
            }
        };
        let allowed = facts.guard.allowed_here.iter().find(|one| hidden.contains(&one.address));
        if let Some(allowed) = allowed {
            let finding = Finding::new(
                "allowed-address-hides-clients",
                Severity::Open,
                format!(
                    "the rule {} lets {} in, and {} gives that address to others: everyone behind \
                     it is let in",
                    allowed.rule, allowed.address, rule.place
                ),
                format!(
                    "take {} off the allowlist, and allow the clients themselves",
                    allowed.rule
                ),
            );
            findings.push(finding.hiding([allowed.address]));
        }
        let at_risk = facts.guard.ports.iter().find(|port| {
            port.number >= 1024
                && rule.ports.as_ref().is_none_or(|ports| ports.contains(port.number))
        });
        let (what, advice) = match at_risk {
            Some(port) => (
                format!(
                    "{} hides clients behind this host's address, and may give their connections \
                     {} as source port, if their own is taken: replies to these would be dropped",
                    rule.place, port.number
                ),
                "bind the ports that it gives (nft: `masquerade to :32768-60999`, iptables: \
                 `--to-ports 32768-60999`), and do not allow its address for what is behind it",
            ),
            None => (
                format!("{} hides clients behind this host's address", rule.place),
                "do not allow this address for what is behind it",
            ),
        };
        let severity = if at_risk.is_some() { Severity::Caution } else { Severity::Note };
        findings.push(Finding::new("masquerade", severity, what, advice).hiding(hidden));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        doctor::{
            facts::{AllowedAddress, GuardFacts},
            interfaces::Address,
        },
        policy::Port,
    };

    fn facts(rules: Rules) -> Facts {
        let ports = BTreeSet::from([Port::OLLAMA]);
        let guard = GuardFacts { ports, ..GuardFacts::default() };
        let address = "192.0.2.1".parse().unwrap();
        let addresses = vec![Address { interface: "eth0".into(), address, prefix: 24 }];
        let Rules { translations, source_nat } = rules;
        Facts { guard, addresses, translations, source_nat, ..Facts::default() }
    }

    fn of_iptables(rules: &str) -> Vec<Finding> {
        let text = format!("*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{rules}\n");
        findings(&facts(conclude(&iptables::parse("iptables", &text))))
    }

    #[test]
    fn a_rule_from_an_unguarded_port_is_a_way_around() {
        let found = of_iptables("-A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-ports 11434");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].what.contains("sends tcp 8080 to port 11434 of this host"),
            "{}",
            found[0]
        );
        assert!(found[0].advice.contains("guard 8080/tcp too (`--port 8080`)"), "{}", found[0]);
    }

    #[test]
    fn a_rule_from_the_guarded_port_for_another_protocol_or_elsewhere_is_none() {
        for rule in [
            "-A PREROUTING -p tcp --dport 11434 -j DNAT --to-destination 172.17.0.2",
            "-A PREROUTING -p tcp --dport 11434 -j DNAT --to-destination 172.17.0.2:11434",
            "-A PREROUTING -p udp --dport 8080 -j REDIRECT --to-ports 11434",
            "-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
            "-A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2",
            "-A OUTPUT -p tcp --dport 8080 -j REDIRECT --to-ports 11434",
            "-A PREROUTING -i lo -p tcp --dport 8080 -j REDIRECT --to-ports 11434",
            "",
        ] {
            assert_eq!(of_iptables(rule), [], "{rule}");
        }
    }

    #[test]
    fn all_other_ports_are_told_as_ranges() {
        let found = of_iptables("-A PREROUTING -p tcp -j REDIRECT --to-ports 11434");
        assert!(found[0].what.contains("tcp 0-11433, 11435-65535 to"), "{}", found[0]);
    }

    #[test]
    fn kubernetes_chains_are_followed() {
        let found = of_iptables(
            "-A PREROUTING -j KUBE-SERVICES\n\
             -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
             -A KUBE-NODEPORTS -p tcp -m comment --comment \"ai/ollama:api\" -m tcp --dport 31434 \
             -j KUBE-EXT-ABC\n\
             -A KUBE-EXT-ABC -j KUBE-SVC-ABC\n\
             -A KUBE-SVC-ABC -m statistic --mode random --probability 0.5 -j KUBE-SEP-1\n\
             -A KUBE-SVC-ABC -j KUBE-SEP-2\n\
             -A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.244.0.5:11434\n\
             -A KUBE-SEP-2 -p tcp -m tcp -j DNAT --to-destination 10.244.0.6:11434",
        );
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|one| one.advice.contains("guard 31434/tcp too")), "{found:?}");
    }

    #[test]
    fn masquerading_is_told_with_the_address_that_hides_clients() {
        let found = of_iptables("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE");
        assert_eq!((found[0].code, found[0].severity), ("masquerade", Severity::Caution));
        assert_eq!(found[0].hides_clients, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        let bound = of_iptables("-A POSTROUTING -p tcp -j MASQUERADE --to-ports 32768-60999");
        assert_eq!(bound[0].severity, Severity::Note);
        let elsewhere = of_iptables("-A POSTROUTING -o eth1 -j MASQUERADE");
        assert_eq!(elsewhere[0].hides_clients, [] as [IpAddr; 0]);
    }

    #[test]
    fn an_allowed_address_that_hides_clients_is_open() {
        let text = "*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -o eth0 -j MASQUERADE\n";
        let mut facts = facts(conclude(&iptables::parse("iptables", text)));
        let code = |facts: &Facts| findings(facts)[0].code;
        assert_eq!(code(&facts), "masquerade");
        let address = "192.0.2.1".parse().unwrap();
        facts.guard.allowed_here = vec![AllowedAddress { address, rule: "192.0.2.0/24".into() }];
        assert_eq!(code(&facts), "allowed-address-hides-clients");
    }
}
