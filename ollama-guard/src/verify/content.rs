//! The maps' content against itself and against what is meant.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ollama_guard_common::abi::standing;

use super::{TOLD, probes::ports};
use crate::{
    dataplane::Readback,
    policy::{Digest, Entry, MapImage, Port},
};

/// What is wrong with the content of the maps, a sentence each.
pub(super) fn problems(content: &Readback, meant: Option<&MapImage>) -> Vec<String> {
    let mut problems = against_itself(content);
    if let Some(meant) = meant {
        problems.extend(against(&content.image, meant));
    }
    problems
}

/// The slot's description was written with the rest and says how much there is.
fn against_itself(Readback { image, described_entries, digest, .. }: &Readback) -> Vec<String> {
    let mut problems = Vec::new();
    let (v4, v6) = *described_entries;
    for (family, found, described) in [("IPv4", image.v4.len(), v4), ("IPv6", image.v6.len(), v6)] {
        if found != described as usize {
            problems.push(format!(
                "the {family} rules in force have {found} entries, where {described} were written"
            ));
        }
    }
    let ports = ports(image);
    if ports.len() != image.ports as usize {
        problems.push(format!(
            "{} ports are guarded, where {} were written",
            ports.len(),
            image.ports
        ));
    }
    if ports.iter().fold(0, |bits, port| bits | 1 << port.protocol.index()) != image.protocols {
        problems.push("the protocols of the guarded ports are not those that were written".into());
    }
    if Digest::of(image).number() != *digest {
        problems.push(
            "ports or rules in force are not those that were written: their fingerprint is another"
                .into(),
        );
    }
    problems
}

fn against(found: &MapImage, meant: &MapImage) -> Vec<String> {
    let mut problems = Vec::new();
    if found.mode != meant.mode {
        problems.push(format!(
            "the mode in the kernel is {}, and the daemon means {}",
            found.mode.name(),
            meant.mode.name()
        ));
    }
    if found.scope != meant.scope {
        problems.push(format!(
            "the scope in the kernel is {}, and the daemon means {}",
            found.scope.name(),
            meant.scope.name()
        ));
    }
    let (guarded, wanted): (BTreeSet<Port>, BTreeSet<Port>) =
        (ports(found).into_iter().collect(), ports(meant).into_iter().collect());
    let list = |ports: Vec<&Port>| told(ports.iter().map(|port| port.to_string()).collect());
    let (open, extra): (Vec<&Port>, Vec<&Port>) =
        (wanted.difference(&guarded).collect(), guarded.difference(&wanted).collect());
    if !open.is_empty() {
        problems.push(format!("not guarded, though the daemon means it to be: {}", list(open)));
    }
    if !extra.is_empty() {
        problems
            .push(format!("guarded, though the daemon does not mean it to be: {}", list(extra)));
    }
    let v4 = |address: [u8; 4]| IpAddr::V4(Ipv4Addr::from(address));
    let v6 = |address: [u8; 16]| IpAddr::V6(Ipv6Addr::from(address));
    let mut wrong = differences(&found.v4, &meant.v4, v4);
    wrong.extend(differences(&found.v6, &meant.v6, v6));
    if !wrong.is_empty() {
        problems.push(format!("the rules in the kernel are not the daemon's: {}", told(wrong)));
    }
    problems
}

/// Entry by entry; both lists are sorted by address and length.
fn differences<A: Copy + Ord>(
    found: &[Entry<A>],
    meant: &[Entry<A>],
    address: impl Fn(A) -> IpAddr,
) -> Vec<String> {
    let key = |entry: &Entry<A>| (entry.address, entry.length);
    let find = |list: &[Entry<A>], entry: &Entry<A>| {
        let position = list.binary_search_by_key(&key(entry), key).ok()?;
        Some(list[position].standing)
    };
    let mut differences = Vec::new();
    for entry in meant {
        let name = format!("{}/{}", address(entry.address), entry.length);
        let wanted = word(entry.standing);
        match find(found, entry) {
            None => differences.push(format!("{name} is missing ({wanted})")),
            Some(standing) if standing != entry.standing => {
                differences.push(format!("{name} is {} and not {wanted}", word(standing)));
            }
            Some(_) => {}
        }
    }
    let extra = found.iter().filter(|entry| find(meant, entry).is_none());
    differences.extend(extra.map(|entry| {
        let name = format!("{}/{}", address(entry.address), entry.length);
        format!("{name} is {}, and no rule says so", word(entry.standing))
    }));
    differences
}

const fn word(standing: u32) -> &'static str {
    match standing {
        standing::ALLOWED => "allowed",
        standing::DENIED => "denied",
        _ => "neither allowed nor denied",
    }
}

/// The first ones, and how many more.
fn told(mut list: Vec<String>) -> String {
    let more = list.len().saturating_sub(TOLD);
    list.truncate(TOLD);
    let text = list.join(", ");
    if more > 0 { format!("{text}, and {more} more") } else { text }
}

#[cfg(test)]
mod tests {
    use ollama_guard_common::{Mode, Scope};

    use super::*;
    use crate::policy::{Effect, Origin, Policy, Rule, compile};

    fn image(ports: &[&str], allow: &[&str]) -> MapImage {
        let rules = allow.iter().map(|text| Rule {
            prefix: text.parse().unwrap(),
            effect: Effect::Allow,
            comment: None,
            origin: Origin::Flag,
        });
        let policy = Policy {
            mode: Mode::Enforce,
            scope: Scope::All,
            ports: ports.iter().map(|text| text.parse().unwrap()).collect(),
            rules: rules.collect(),
            capacity: 100,
        };
        compile(&policy).unwrap()
    }

    fn content(image: MapImage) -> Readback {
        let described_entries = (image.v4.len() as u32, image.v6.len() as u32);
        let digest = Digest::of(&image).number();
        Readback { generation: 1, image, described_entries, digest }
    }

    #[test]
    fn what_is_as_it_is_meant_has_no_problems() {
        let meant = image(&["11434", "53/udp"], &["192.0.2.0/24", "2001:db8::/32"]);
        assert_eq!(problems(&content(meant.clone()), Some(&meant)), [""; 0]);
        assert_eq!(problems(&content(meant), None), [""; 0]);
    }

    #[test]
    fn every_difference_is_named() {
        let meant = image(&["11434", "53/udp"], &["192.0.2.0/24", "2001:db8::/32"]);
        let mut other = image(&["11434", "80"], &["192.0.2.0/24", "198.51.100.0/24"]);
        other.v4[0].standing = standing::DENIED;
        other.mode = Mode::Observe;
        let said = problems(&content(other), Some(&meant)).join("\n");
        for part in [
            "the mode in the kernel is observe",
            "not guarded, though the daemon means it to be: 53/udp",
            "guarded, though the daemon does not mean it to be: 80/tcp",
            "192.0.2.0/24 is denied and not allowed",
            "198.51.100.0/24 is allowed, and no rule says so",
            "2001:db8::/32 is missing (allowed)",
        ] {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
    }

    #[test]
    fn without_a_daemon_the_numbers_that_were_written_are_the_measure() {
        let mut content = content(image(&["11434"], &["192.0.2.0/24"]));
        content.image.v4.clear();
        content.image.port_words.clear();
        let said = problems(&content, None).join("\n");
        assert!(
            said.contains("IPv4 rules in force have 0 entries, where 1 were written"),
            "{said}"
        );
        assert!(said.contains("0 ports are guarded, where 1 were written"), "{said}");
        assert!(said.contains("their fingerprint is another"), "{said}");
    }
}
