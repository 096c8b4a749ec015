//! What holds for whatever was seen, under any rules.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::policy::{Effect, Limits, NameRule, Subject, deciding_rule, list};

/// Few bits differ, so that sources share networks, and rules cover some.
fn source() -> impl Strategy<Value = IpAddr> {
    (0_u8..6, any::<u8>(), 0_u8..8).prop_map(|(kind, low, net)| {
        let low16 = u16::from(low % 16);
        match kind {
            0 | 1 => Ipv4Addr::new(192, 168, net, low).into(),
            2 => Ipv4Addr::new(203, 0, 113, low).into(),
            3 => Ipv6Addr::new(0x2001, 0xdb8, 7, net.into(), 0x8d3c, low16, 3, 4).into(),
            4 => Ipv6Addr::new(0x2001, 0xdb8, 8, net.into(), 0, 0, 0, low16).into(),
            _ => Ipv6Addr::new(0xfd00, 0, 0, net.into(), 0, 0, 0, low16).into(),
        }
    })
}

fn sighting() -> impl Strategy<Value = Sighting> {
    let talk = traits::SYN | traits::ACK | traits::DATA;
    let shown = prop_oneof![6 => Just(talk), 1 => 0..1_u64 << 6];
    (source(), 0..50_u64, 0..50_u64, shown).prop_map(|(source, allowed, refused, traits)| {
        Sighting {
            source,
            allowed,
            refused,
            bytes: 60 * (allowed + refused),
            first: Timestamp::UNIX_EPOCH,
            last: Timestamp::UNIX_EPOCH,
            traits,
        }
    })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let length = prop_oneof![Just(24_u8), Just(28), Just(32)];
    (source(), length, any::<bool>(), 0..6_u8).prop_map(|(source, length, is_told, effect)| {
        let length = if source.is_ipv4() { length } else { length * 4 };
        let net = IpNet::new(source, length).unwrap().trunc().to_string();
        let is_limited = effect % 3 == 2;
        let effect = if effect < 2 { Effect::Deny } else { Effect::Allow };
        let limits = Limits::new(is_limited.then(|| "webui".into()), Vec::new());
        Rule { limits, ..tests::rule(effect, &net, Some("why # so"), is_told) }
    })
}

/// Names, with addresses that rules may be about, too.
fn any_names() -> impl Strategy<Value = Vec<Resolved>> {
    let one = (any_rule(), prop::collection::vec(source(), 0..3));
    prop::collection::vec(one, 0..4).prop_map(|names| {
        let named = |(number, (rule, addresses)): (usize, (Rule, Vec<IpAddr>))| {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
            tests::resolved(&format!("h{number}.example"), rule, &addresses)
        };
        names.into_iter().enumerate().map(named).collect()
    })
}

/// What a name comes to.
fn derived(named: &Resolved) -> impl Iterator<Item = Rule> {
    let NameRule { effect, limits, comment, origin, expires, .. } = named.rule.clone();
    let any = Rule {
        effect,
        limits,
        comment,
        origin,
        expires,
        ..tests::rule(effect, "::1:1", None, true)
    };
    named.addresses.iter().map(move |&prefix| Rule { prefix, ..any.clone() })
}

fn networks() -> impl Strategy<Value = Vec<IpNet>> {
    let known = ["192.168.0.0/24", "192.168.2.0/23", "fd00::/64", "2001:db8:7:1::/64"];
    prop::sample::subsequence(known.to_vec(), 0..=known.len())
        .prop_map(|nets| nets.into_iter().map(|net| net.parse().unwrap()).collect())
}

proptest! {
    #[test]
    fn whoever_talked_gets_in_nobody_else_gets_in_with_them_and_no_rule_is_lost(
        seen in prop::collection::btree_map(source(), sighting(), 0..60),
        written in prop::collection::vec(any_rule(), 0..6),
        names in any_names(),
        networks in networks(),
        mode in prop_oneof![4 => Just(Mode::Observe), 1 => Just(Mode::Enforce)],
    ) {
        let sightings: Vec<Sighting> =
            seen.into_iter().map(|(source, one)| Sighting { source, ..one }).collect();
        let proposal = propose(&Observations {
            sightings: &sightings,
            mode,
            since: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH,
            homeless: 0,
            networks: &networks,
            rules: &written,
            names: &names,
        });
        let rules: Vec<Rule> =
            written.iter().cloned().chain(names.iter().flat_map(derived)).collect();
        // What `allow replace` would read, and what the rules then are.
        let text = proposal.to_string();
        let read: Vec<Subject> = list::lines(text.as_bytes())
            .map(|(_, line)| line.unwrap().prefix.parse().unwrap())
            .collect();
        let meant = proposal.entries.iter().filter(|entry| entry.group.is_proposed());
        prop_assert_eq!(read.len(), meant.count());
        let stays = |rule: &&Rule| By::Rule(rule).group() != Group::Kept;
        let mut after: Vec<Rule> = rules.iter().filter(stays).cloned().collect();
        for subject in &read {
            match subject {
                Subject::Prefix(prefix) => {
                    after.push(tests::rule(Effect::Allow, &prefix.to_string(), None, true));
                }
                Subject::Name(name) => {
                    let named = names.iter().filter(|one| one.rule.name == *name);
                    after.extend(named.flat_map(derived));
                }
            }
        }
        let everywhere = |rule: &Rule| rule.effect == Effect::Deny || rule.limits.is_none();
        let gets_in = |rules: &[Rule], source| {
            let rule = deciding_rule(rules, source, everywhere);
            rule.is_some_and(|rule| rule.effect == Effect::Allow)
        };
        for one in &sightings {
            let source = one.source;
            let before = deciding_rule(&rules, source, everywhere);
            let is_denied = before.is_some_and(|rule| rule.effect == Effect::Deny);
            let is_enough = |rule: &Rule| {
                rule.effect == Effect::Allow && rule.limits.is_some() && one.refused == 0
            };
            let talked = one.conversation() == Conversation::Talked
                && mode == Mode::Observe
                && deciding_rule(&rules, source, is_enough).is_none();
            let expected = gets_in(&rules, source) || talked && !is_denied;
            prop_assert_eq!(gets_in(&after, source), expected, "{}\n{}", source, text);
        }
        for rule in by::all(&written, &names).filter(|rule| rule.group() == Group::Kept) {
            let subject = match rule {
                By::Rule(rule) => Subject::Prefix(rule.prefix),
                By::Name(rule) => Subject::Name(rule.name.clone()),
            };
            prop_assert!(read.contains(&subject), "{} is lost\n{}", subject, text);
        }
        // The index finds what the plain definition finds.
        let index = RuleIndex::new(&rules, &[]);
        for one in &sightings {
            let found = index.deciding(one.source).map(|by| match by {
                By::Rule(rule) => rule.said(),
                By::Name(_) => unreachable!("there are none"),
            });
            prop_assert_eq!(found, deciding_rule(&rules, one.source, everywhere).map(Rule::said));
        }
        // Every source is in the books once.
        let told: u64 = proposal.entries.iter().map(|entry| entry.sources).sum();
        let untold: u64 = proposal.summary.untold.values().map(|(entries, _)| entries).sum();
        prop_assert_eq!(told + untold, sightings.len() as u64);
    }
}
