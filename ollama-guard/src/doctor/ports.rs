//! Guarded ports that this host's own connections may be given.
//!
//! A connection that this host opens gets a local port out of `ip_local_port_range`. Should that
//! be a guarded one, the replies look like packets for the guarded port, and are dropped.

use std::{collections::BTreeSet, fs, path::Path};

use serde::Serialize;

use super::{
    facts::NotSeen,
    finding::{Finding, Severity},
};
use crate::policy::Port;

/// Which local ports connections get. The kernel has one setting for all protocols and both
/// families (`net.ipv4.*`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EphemeralPorts {
    /// The first and the last of the range; `None` if it could not be read.
    pub range: Option<(u16, u16)>,
    /// Ports that are left out, as ranges.
    pub reserved: Vec<(u16, u16)>,
}

/// Reads the settings of the calling thread's network namespace, under `/proc/sys`.
pub(super) fn collect(sys: &Path, not_seen: &mut Vec<NotSeen>) -> EphemeralPorts {
    let mut read = |name: &str| {
        let path = sys.join("net/ipv4").join(name);
        let text = fs::read_to_string(&path);
        text.map_err(|error| not_seen.push(NotSeen::new(path.display().to_string(), error))).ok()
    };
    let range = read("ip_local_port_range").as_deref().and_then(parse_range);
    let reserved = read("ip_local_reserved_ports").as_deref().and_then(parse_reserved);
    EphemeralPorts { range, reserved: reserved.unwrap_or_default() }
}

/// Two numbers with white space between.
fn parse_range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// `8080,9148-9150`, or nothing.
fn parse_reserved(text: &str) -> Option<Vec<(u16, u16)>> {
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .collect()
}

/// One finding for all ports that are in danger: one line to type.
pub(super) fn findings(ephemeral: &EphemeralPorts, ports: &BTreeSet<Port>) -> Vec<Finding> {
    let Some((first, last)) = ephemeral.range else { return Vec::new() };
    let within = |(first, last): (u16, u16), port: u16| (first..=last).contains(&port);
    let in_danger: BTreeSet<u16> = ports
        .iter()
        .map(|port| port.number)
        .filter(|&port| within((first, last), port))
        .filter(|&port| !ephemeral.reserved.iter().any(|&range| within(range, port)))
        .collect();
    if in_danger.is_empty() {
        return Vec::new();
    }
    let list = in_danger.iter().map(ToString::to_string).collect::<Vec<_>>();
    let reserved = ephemeral.reserved.iter().map(|&(first, last)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    });
    // The setting is replaced whole: what is reserved already has to be said again.
    let wanted = reserved.chain(list.iter().cloned()).collect::<Vec<_>>().join(",");
    vec![Finding::new(
        "ephemeral-port",
        Severity::Hurts,
        format!(
            "guarded port {} is inside net.ipv4.ip_local_port_range ({first} to {last}) and not \
             reserved: this host's own connections may be given it, and the replies to them would \
             be dropped",
            list.join(", ")
        ),
        format!(
            "type `sysctl -w net.ipv4.ip_local_reserved_ports={wanted}`, and put the same setting \
             into /etc/sysctl.d"
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(ports: &[&str]) -> BTreeSet<Port> {
        ports.iter().map(|port| port.parse().unwrap()).collect()
    }

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(parse_range("x"), None);
        assert_eq!(parse_reserved("\n"), Some(vec![]));
        assert_eq!(parse_reserved("8080,9148-9150\n"), Some(vec![(8080, 8080), (9148, 9150)]));
        assert_eq!(parse_reserved("99999"), None);
    }

    #[test]
    fn a_port_in_the_range_is_said_with_the_line_to_type() {
        let range = Some((1024, 60999));
        let ephemeral = EphemeralPorts { range, reserved: vec![(8080, 8080), (9148, 9150)] };
        let found = findings(&ephemeral, &guarded(&["11434/tcp", "80/tcp", "9149/udp"]));
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("guarded port 11434 is inside"), "{}", found[0]);
        let line = "`sysctl -w net.ipv4.ip_local_reserved_ports=8080,9148-9150,11434`";
        assert!(found[0].advice.contains(line), "{}", found[0]);
    }

    #[test]
    fn a_reserved_port_and_one_outside_are_no_finding() {
        let reserved = EphemeralPorts { range: Some((1024, 60999)), reserved: vec![(1, 65535)] };
        assert_eq!(findings(&reserved, &guarded(&["11434"])), []);
        let outside = EphemeralPorts { range: Some((32768, 60999)), reserved: vec![] };
        assert_eq!(findings(&outside, &guarded(&["11434"])), []);
        assert_eq!(findings(&EphemeralPorts::default(), &guarded(&["11434"])), []);
    }
}
