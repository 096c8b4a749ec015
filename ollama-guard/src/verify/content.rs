//! The maps' content against itself and against what is meant.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ollama_guard_common::{Standing, abi::RuleSet};

use super::{
    TOLD,
    wanted::{port, ports},
};
use crate::{
    dataplane::Readback,
    policy::{
        Digests, MapImage, Port, RuleTable,
        trie::{Range, ranges4, ranges6},
    },
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
fn against_itself(Readback { image, written_ports, digest, .. }: &Readback) -> Vec<String> {
    let mut problems = Vec::new();
    let ports = ports(image);
    if ports.len() != *written_ports as usize {
        problems
            .push(format!("{} ports are guarded, where {written_ports} were written", ports.len()));
    }
    if ports.iter().fold(0, |bits, port| bits | 1 << port.protocol.index()) != image.protocols {
        problems.push("the protocols of the guarded ports are not those that were written".into());
    }
    if Digests::of(image).whole.number() != *digest {
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
    problems.extend(services(found, meant));
    problems.extend(rules(found, meant));
    problems
}

/// Which services there are, which ports are whose, and which doors are told apart.
fn services(found: &MapImage, meant: &MapImage) -> Vec<String> {
    let mut problems = Vec::new();
    for (number, service) in &meant.services {
        let name = &service.name;
        match found.services.get(number) {
            Some(other) if other.name == *name && other.mode != service.mode => {
                problems.push(format!(
                    "the mode of {name} in the kernel is {}, and the daemon means {}",
                    other.mode.name(),
                    service.mode.name()
                ));
            }
            Some(other) if other.name == *name => {}
            Some(other) => problems.push(format!(
                "the kernel has the service {} where the daemon means {name}",
                other.name
            )),
            None => problems.push(format!("the service {name} is not in the kernel")),
        }
    }
    let wrong = found.ports.iter().filter(|(place, service)| {
        meant.ports.iter().any(|(other, meant)| place == other && service != meant)
    });
    let wrong: Vec<String> =
        wrong.filter_map(|(place, _)| Some(port(*place)?.to_string())).collect();
    if !wrong.is_empty() {
        problems.push(format!("ports of another service than the daemon means: {}", told(wrong)));
    }
    let how = |image: &MapImage| {
        (image.is_apart, image.doubted, image.is_apart.then_some(image.stride), image.doors.clone())
    };
    if how(found) != how(meant) {
        problems.push("interfaces or services are not told apart as the daemon means".into());
    }
    problems
}

/// What the rules say, address by address.
fn rules(found: &MapImage, meant: &MapImage) -> Option<String> {
    let is_plain = !found.is_apart && !meant.is_apart;
    let (found, meant) = (&found.rules, &meant.rules);
    let v4 = (ranges4(found), ranges4(meant));
    let v6 = (ranges6(found), ranges6(meant));
    let ((Some(found4), Some(meant4)), (Some(found6), Some(meant6))) = (v4, v6) else {
        return Some("the rules in the kernel can't be read: their words are damaged".into());
    };
    let tables = (found, meant);
    let mut wrong = differences(tables, &found4, &meant4, is_plain, |a| Ipv4Addr::from(a).into());
    wrong.extend(differences(tables, &found6, &meant6, is_plain, |a| Ipv6Addr::from(a).into()));
    if !wrong.is_empty() {
        return Some(format!("the rules in the kernel are not the daemon's: {}", told(wrong)));
    }
    // In other words than these, perhaps: which words the daemon wrote is in the fingerprint.
    None
}

/// Range by range; both lists are of all addresses.
fn differences<A: Copy + Ord>(
    (found_table, meant_table): (&RuleTable, &RuleTable),
    found: &[Range<A>],
    meant: &[Range<A>],
    is_plain: bool,
    address: impl Fn(A) -> IpAddr,
) -> Vec<String> {
    let mut differences = Vec::new();
    let (mut found, mut meant) = (found.iter().peekable(), meant.iter().peekable());
    while let (Some(one), Some(other)) = (found.peek(), meant.peek()) {
        let (first, last) = (one.first.max(other.first), one.last.min(other.last));
        let word = |table: &RuleTable, set| word(table.set(set), is_plain);
        let (is, wanted) = (word(found_table, one.set), word(meant_table, other.set));
        if is != wanted {
            let (first, last) = (address(first), address(last));
            let name = if first == last { first.to_string() } else { format!("{first} to {last}") };
            let but = if wanted == NO_RULE {
                ", and in no rule".into()
            } else {
                format!(" and not {wanted}")
            };
            differences.push(format!("{name}: {is}{but}"));
        }
        let ends = (one.last == last, other.last == last);
        if ends.0 {
            found.next();
        }
        if ends.1 {
            meant.next();
        }
    }
    differences
}

const NO_RULE: &str = "in no rule";

/// A set in words. Where services or doors are told apart, in numbers.
fn word(set: Option<RuleSet>, is_plain: bool) -> String {
    let Some(set) = set else { return "in a set that there is not".into() };
    let pairs = set.reach | set.denied;
    if !is_plain && set != RuleSet::NONE {
        return format!("allowed {:#x} and denied {:#x}", set.reach, set.denied);
    }
    match set.standing(pairs.max(1)) {
        Standing::Allowed => "allowed".into(),
        Standing::Denied => "denied".into(),
        Standing::NotListed | Standing::RulesAbsent => NO_RULE.into(),
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
    use ollama_guard_common::{Mode, Scope, abi::THE_SERVICE};

    use super::*;
    use crate::policy::{Effect, Layout, Policy, Service, Statement, compile};

    fn image(ports: &[&str], allow: &[&str]) -> MapImage {
        let rules = allow.iter().map(|text| Statement {
            prefix: text.parse().unwrap(),
            effect: Effect::Allow,
            pairs: THE_SERVICE,
        });
        let ports = ports.iter().map(|text| text.parse().unwrap());
        let policy = Policy {
            scope: Scope::All,
            layout: Layout::of(vec![Service::ollama(Mode::Enforce, ports)]).unwrap(),
            rules: rules.collect(),
            capacity: 100,
        };
        compile(&policy).unwrap()
    }

    fn content(image: MapImage) -> Readback {
        let digest = Digests::of(&image).whole.number();
        let written_ports = image.ports.len() as u32;
        Readback { generation: 1, image, written_ports, digest }
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
        let mut other = image(&["11434", "80"], &["192.0.2.0/25", "198.51.100.0/24"]);
        other.mode = Mode::Observe;
        let said = problems(&content(other), Some(&meant)).join("\n");
        for part in [
            "the mode in the kernel is observe",
            "not guarded, though the daemon means it to be: 53/udp",
            "guarded, though the daemon does not mean it to be: 80/tcp",
            "192.0.2.128 to 192.0.2.255: in no rule and not allowed",
            "198.51.100.0 to 198.51.100.255: allowed, and in no rule",
            "2001:db8:: to 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff: in no rule and not allowed",
        ] {
            assert!(said.contains(part), "{part} is not in:\n{said}");
        }
    }

    #[test]
    fn without_a_daemon_the_numbers_that_were_written_are_the_measure() {
        let mut content = content(image(&["11434"], &["192.0.2.0/24"]));
        content.image.rules = RuleTable::default();
        content.image.ports.clear();
        let said = problems(&content, None).join("\n");
        assert!(said.contains("0 ports are guarded, where 1 were written"), "{said}");
        assert!(said.contains("their fingerprint is another"), "{said}");
    }
}
