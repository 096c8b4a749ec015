//! Whom the inner door lets in where rules are limited to doors: whoever is let in by one way at least.
//!
//! It can't tell by which door a packet came. Were a deny rule for `eth1` to hold there, what `eth0` lets in would be
//! dropped; were it never to hold, somebody would get in whom no door lets in. So it asks all doors: a source is let in
//! if one of them lets it in, by its allow rules and its deny rules together, or if what is said about no
//! guarded door does.

use ollama_guard_common::abi::RuleSet;

/// Where the bits of a rule set lie for it.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    /// Bits of one class of doors.
    class: u32,
    /// Where those of the inner door begin.
    own: u32,
    /// Where those of each class of guarded doors do.
    doors: Vec<u32>,
}

impl Inside {
    /// Classes have so many bits, and begin there.
    pub(super) fn new(stride: u32, own: u32, doors: Vec<u32>) -> Self {
        Self { class: u32::MAX >> (u32::BITS - stride), own, doors }
    }

    /// What the rules say about sources, with what follows for the inner door.
    pub(super) fn conclude(&self, said: RuleSet) -> RuleSet {
        let by_any = |bits: u32| {
            let places = self.doors.iter().chain([&self.own]);
            places.fold(0, |all, place| all | bits >> place & self.class)
        };
        let reach = by_any(said.reach);
        let denied = by_any(said.denied) & !reach;
        let others = !(self.class << self.own);
        RuleSet {
            reach: said.reach & others | reach << self.own,
            denied: said.denied & others | denied << self.own,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::IpAddr};

    use ollama_guard_common::{Mode, Scope, Standing};
    use proptest::prelude::*;

    use crate::policy::{
        Compiled, Effect, Layout, Limits, Pattern, Policy, Port, Service, Statement, compile,
    };

    const INNER: u32 = 0;
    const DOORS: [(u32, &str); 3] = [(INNER, "inner door"), (2, "eth0"), (3, "wg0")];
    /// What rules are limited to. Nobody guards the last one.
    const ON: [&[&str]; 5] = [&[], &["eth0"], &["wg0"], &["eth0", "wg0"], &["docker0"]];

    type Written = (u8, bool, usize);

    fn limits(on: usize) -> Limits {
        let pattern = |text: &&str| text.parse::<Pattern>().unwrap();
        Limits { service: None, on: ON[on].iter().map(pattern).collect() }
    }

    fn layout() -> Layout {
        let service = |name: &str, port: &str| Service {
            name: name.into(),
            ..Service::ollama(Mode::Enforce, [port.parse().unwrap()])
        };
        let services = vec![Service::ollama(Mode::Enforce, [Port::OLLAMA]), service("web", "8080")];
        let all: Vec<Limits> = (1..ON.len()).map(limits).collect();
        let doors = BTreeMap::from(DOORS.map(|(index, name)| (index, name.to_owned())));
        Layout::new(services, &[], &all, &doors).unwrap()
    }

    /// A rule of nested networks: the fewer bits, the larger.
    fn statement(layout: &Layout, &(length, denies, on): &Written) -> Option<Statement> {
        let effect = if denies { Effect::Deny } else { Effect::Allow };
        let prefix = format!("10.0.0.0/{length}").parse().unwrap();
        let pairs = layout.pairs(effect, Some(&limits(on)));
        (pairs != 0).then_some(Statement { prefix, effect, pairs })
    }

    fn policy(layout: &Layout, written: &[Written]) -> Policy {
        Policy {
            scope: Scope::All,
            layout: layout.clone(),
            rules: written.iter().filter_map(|one| statement(layout, one)).collect(),
            capacity: 100,
        }
    }

    /// By the definition: allowed there, and not denied there.
    fn is_let_in_at(written: &[Written], door: &str, source: IpAddr) -> bool {
        let some = |denies| {
            written.iter().filter(|(_, other, _)| *other == denies).any(|&(length, _, on)| {
                let net: ipnet::IpNet = format!("10.0.0.0/{length}").parse().unwrap();
                net.contains(&source) && (ON[on].is_empty() || ON[on].contains(&door))
            })
        };
        some(false) && !some(true)
    }

    fn written() -> impl Strategy<Value = Vec<Written>> {
        let one = (8_u8..33, prop::bool::weighted(0.35), 0..ON.len());
        prop::collection::vec(one, 0..12)
    }

    proptest! {
        #[test]
        fn a_source_is_let_in_inside_if_some_way_lets_it_in(
            written in written(),
            bit in 0_u32..25,
        ) {
            let layout = layout();
            let image = compile(&policy(&layout, &written)).unwrap();
            let source = IpAddr::from((0x0a00_0000_u32 ^ 1 << bit).to_be_bytes());
            let set = image.rules.find(source).unwrap();
            let shifts: BTreeMap<u32, u32> = layout.doors().collect();
            for service in 0..2 {
                let at = |door: u32| set.standing(1 << (shifts[&door] + service));
                for (index, name) in &DOORS[1..] {
                    let is_let_in = at(*index) == Standing::Allowed;
                    prop_assert_eq!(is_let_in, is_let_in_at(&written, name, source), "{}", name);
                }
                let by_some = ["eth0", "wg0", "docker0"]
                    .iter()
                    .any(|door| is_let_in_at(&written, door, source));
                prop_assert_eq!(at(INNER) == Standing::Allowed, by_some);
            }
        }

        #[test]
        fn an_edit_says_the_same_as_the_whole(written in written(), more in written()) {
            let layout = layout();
            let statements = |rules: &[Written]| -> Vec<Statement> {
                rules.iter().filter_map(|one| statement(&layout, one)).collect()
            };
            let edited = Compiled::new(policy(&layout, &written)).unwrap();
            let edited = edited.edited(&statements(&more), &[]).unwrap();
            let whole = compile(&policy(&layout, &[written, more].concat())).unwrap();
            for bit in 0..25 {
                let source = IpAddr::from((0x0a00_0000_u32 ^ 1 << bit).to_be_bytes());
                prop_assert_eq!(edited.image().rules.find(source), whole.rules.find(source));
            }
        }
    }

    #[test]
    fn who_is_denied_at_every_door_that_allows_is_denied_inside() {
        let layout = layout();
        let set = |written: &[Written]| {
            let image = compile(&policy(&layout, written)).unwrap();
            let set = image.rules.find("10.0.0.1".parse().unwrap()).unwrap();
            let shifts: BTreeMap<u32, u32> = layout.doors().collect();
            set.standing(1 << shifts[&INNER])
        };
        let (allow, deny) = (false, true);
        assert_eq!(set(&[(8, allow, 1)]), Standing::Allowed);
        assert_eq!(set(&[(8, allow, 1), (24, deny, 1)]), Standing::Denied);
        assert_eq!(set(&[(8, allow, 0), (24, deny, 1)]), Standing::Allowed, "by wg0");
        assert_eq!(set(&[(8, allow, 3), (24, deny, 1)]), Standing::Allowed, "by wg0");
        assert_eq!(set(&[(8, allow, 0), (24, deny, 0)]), Standing::Denied);
        assert_eq!(set(&[(8, allow, 4)]), Standing::Allowed, "nobody else judges there");
        assert_eq!(set(&[(8, allow, 4), (24, deny, 4)]), Standing::Denied);
        assert_eq!(set(&[]), Standing::NotListed);
    }
}
