//! What holds for any rules: the compiled image against the plain definition.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use ollama_guard_common::{Mode, abi::RuleSet};
use proptest::prelude::*;

use super::{
    Compiled, Effect, MapImage, Origin, Policy, Port, Prefix, Rule, Service, Statement, compile,
    deciding_rule,
    trie::{ranges4, ranges6},
};

/// Addresses that differ in few bits, so that random prefixes are nested and random probes hit.
fn address() -> impl Strategy<Value = IpAddr> {
    let bits = prop::collection::vec(0_u32..32, 0..4);
    (any::<bool>(), bits).prop_map(|(v6, bits)| {
        let flipped = bits.iter().fold(0_u32, |address, bit| address ^ 1 << bit);
        let v4 = 0x0a00_0000 ^ flipped;
        // The same 32 bits at the front: what would be mistaken if the families were mixed.
        let v6_bits = u128::from(v4) << 96 | u128::from(flipped & 0xff);
        if v6 { Ipv6Addr::from(v6_bits).into() } else { Ipv4Addr::from(v4).into() }
    })
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (address(), any::<u8>()).prop_filter_map("no rule can be about it", |(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let net = IpNet::new(address, length % (most + 1)).ok()?;
        Prefix::try_from(net.trunc()).ok()
    })
}

fn rules(effect: impl Strategy<Value = Effect>) -> impl Strategy<Value = Vec<Rule>> {
    let rule = (prefix(), effect).prop_map(|(prefix, effect)| Rule {
        prefix,
        effect,
        limits: None,
        comment: None,
        origin: Origin::Flag.into(),
        expires: None,
    });
    prop::collection::vec(rule, 0..40)
}

fn any_effect() -> impl Strategy<Value = Effect> {
    prop_oneof![3 => Just(Effect::Allow), 1 => Just(Effect::Deny)]
}

fn said(rule: &Rule) -> Statement {
    Statement::plain(rule.prefix, rule.effect)
}

fn policy(rules: &BTreeSet<Statement>, capacity: u32) -> Policy {
    let service = Service::ollama(Mode::Enforce, [Port::OLLAMA]);
    let policy = Policy::plain(service, [], capacity).unwrap();
    Policy { rules: rules.iter().copied().collect(), ..policy }
}

fn image(rules: &[Rule]) -> MapImage {
    compile(&policy(&rules.iter().map(said).collect(), 1_000_000)).unwrap()
}

/// The definition, word for word.
fn is_allowed(rules: &[Rule], source: IpAddr) -> bool {
    let some = |effect| rules.iter().any(|r| r.effect == effect && r.prefix.contains(source));
    some(Effect::Allow) && !some(Effect::Deny)
}

/// The answer of the program's lookup.
fn admits(image: &MapImage, source: IpAddr) -> bool {
    image.rules.find(source) == Some(RuleSet::ALLOWED)
}

/// The probes, and the first and the last address of every rule.
fn sources(rules: &[Rule], probes: Vec<IpAddr>) -> Vec<IpAddr> {
    let edges = rules.iter().flat_map(|r| [r.prefix.net().network(), r.prefix.net().broadcast()]);
    edges.chain(probes).collect()
}

proptest! {
    #[test]
    fn the_lookup_in_the_image_is_the_definition(
        rules in rules(any_effect()),
        probes in prop::collection::vec(address(), 40),
    ) {
        let image = image(&rules);
        for source in sources(&rules, probes) {
            let allowed = is_allowed(&rules, source);
            prop_assert_eq!(admits(&image, source), allowed, "{}", source);
            let decided = deciding_rule(&rules, source, |_| true).map(|rule| rule.effect);
            prop_assert_eq!(decided == Some(Effect::Allow), allowed, "{}", source);
        }
    }

    #[test]
    fn a_stricter_list_never_admits_more(
        rules in rules(any_effect()),
        more_denied in rules(Just(Effect::Deny)),
        keep in any::<prop::sample::Index>(),
        probes in prop::collection::vec(address(), 40),
    ) {
        let mut stricter = rules.clone();
        if !rules.is_empty() {
            let position = keep.index(rules.len());
            if rules[position].effect == Effect::Allow {
                stricter.remove(position);
            }
        }
        stricter.extend(more_denied);
        let (before, after) = (image(&rules), image(&stricter));
        for source in sources(&stricter, probes) {
            prop_assert!(!admits(&after, source) || admits(&before, source), "{}", source);
        }
    }

    #[test]
    fn rules_of_one_family_say_nothing_about_the_other(rules in rules(any_effect())) {
        let (v4, v6): (Vec<Rule>, Vec<Rule>) =
            rules.iter().cloned().partition(|rule| rule.prefix.net().addr().is_ipv4());
        prop_assert_eq!(ranges6(&image(&v4).rules).unwrap().len(), 1);
        prop_assert_eq!(ranges4(&image(&v6).rules).unwrap().len(), 1);
        prop_assert_eq!(ranges4(&image(&rules).rules), ranges4(&image(&v4).rules));
        prop_assert_eq!(ranges6(&image(&rules).rules), ranges6(&image(&v6).rules));
    }

    #[test]
    fn the_order_of_the_rules_and_repeating_them_change_nothing(
        (rules, shuffled) in rules(any_effect())
            .prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
    ) {
        let twice: Vec<Rule> = shuffled.iter().chain(&rules).cloned().collect();
        prop_assert_eq!(image(&rules), image(&shuffled));
        prop_assert_eq!(image(&rules), image(&twice));
    }

    #[test]
    fn different_prefixes_are_counted_once(rules in rules(any_effect())) {
        let prefixes: BTreeSet<Prefix> = rules.iter().map(|rule| rule.prefix).collect();
        let (v4, v6) = image(&rules).prefixes;
        prop_assert_eq!((v4 + v6) as usize, prefixes.len());
    }
}

/// A chain of networks one within the other, beside many single addresses: what a scan of all the
/// rules for each prefix, or a stack that is searched from the bottom, would choke on.
#[test]
fn a_hundred_thousand_prefixes_compile_at_once() {
    let addresses =
        (0..100_000_u32).map(|n| IpNet::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n))));
    let chain =
        (8..=31).map(|length| IpNet::new(Ipv4Addr::from(0x0a00_0000).into(), length).unwrap());
    let rules: Vec<Rule> = addresses
        .chain(chain)
        .map(|net| Rule {
            prefix: Prefix::try_from(net).unwrap(),
            effect: Effect::Allow,
            limits: None,
            comment: None,
            origin: Origin::Flag.into(),
            expires: None,
        })
        .collect();
    let start = Instant::now();
    let image = image(&rules);
    assert_eq!(image.prefixes, (rules.len() as u32, 0));
    // Unoptimised and on a busy machine it takes well under a second; quadratic takes minutes.
    assert!(start.elapsed() < Duration::from_secs(10), "took {:?}", start.elapsed());
}

/// A step of a history: what comes, and what goes by position.
type Step = (Vec<Rule>, Vec<prop::sample::Index>);

fn step() -> impl Strategy<Value = Step> {
    let few = (rules(any_effect()), prop::collection::vec(any::<prop::sample::Index>(), 0..3));
    few.prop_map(|(mut rules, gone)| {
        rules.truncate(3);
        (rules, gone)
    })
}

/// What the words say, set by set, whatever the words are.
fn meaning(image: &MapImage) -> impl PartialEq + std::fmt::Debug {
    (ranges4(&image.rules), ranges6(&image.rules), image.prefixes)
}

proptest! {
    /// Rules that come and go one by one leave a table that says what one says that is built of
    /// what is left.
    #[test]
    fn a_followed_edit_says_what_a_whole_table_says(
        rules in rules(any_effect()),
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let said = |rules: &[Rule]| rules.iter().map(said).collect::<BTreeSet<_>>();
        let mut now = said(&rules);
        let policy = |rules: &BTreeSet<_>| policy(rules, 1_000_000);
        let mut compiled = Compiled::new(policy(&now)).unwrap();
        for (coming, gone) in steps {
            let gone: BTreeSet<_> = gone
                .iter()
                .filter(|_| !now.is_empty())
                .map(|index| *now.iter().nth(index.index(now.len())).unwrap())
                .collect();
            let coming: Vec<_> = said(&coming).difference(&gone).copied().collect();
            let gone: Vec<_> = gone.into_iter().collect();
            now.retain(|one| !gone.contains(one));
            now.extend(coming.iter().copied());
            compiled = compiled.edited(&coming, &gone).unwrap();
            let whole = compile(&policy(&now)).unwrap();
            prop_assert_eq!(meaning(compiled.image()), meaning(&whole));
        }
    }
}

/// In a long list, most edits are followed, and an edit that is not is no different.
#[test]
fn edits_of_a_long_list_are_followed() {
    let net =
        |n: u32| IpNet::new(Ipv4Addr::from(n.wrapping_mul(0x9e37_79b1)).into(), 24 + n as u8 % 9);
    let prefixes = (0..20_000).filter_map(|n| Prefix::try_from(net(n).unwrap().trunc()).ok());
    let v6 = |n: u32| {
        let bits = 0x2001_0db8_u128 << 96 | u128::from(n.wrapping_mul(0x9e37_79b1)) << 64;
        Prefix::try_from(IpNet::new(Ipv6Addr::from(bits).into(), 96).unwrap()).unwrap()
    };
    let allowed = |prefix| Statement::plain(prefix, Effect::Allow);
    let mut now: BTreeSet<Statement> = prefixes.chain((0..20_000).map(v6)).map(allowed).collect();
    let policy = |rules: &BTreeSet<_>| policy(rules, 100_000);
    let mut compiled = Compiled::new(policy(&now)).unwrap();
    let mut followed = 0;
    let texts = [
        "10.1.2.3",
        "10.0.0.0/14",
        "2001:db8:7::/48",
        "2001:db8::1",
        "198.51.100.0/24",
        "0.0.0.0/0",
    ];
    for text in texts {
        for effect in [Effect::Allow, Effect::Deny] {
            let said = Statement::plain(text.parse().unwrap(), effect);
            for comes in [true, false] {
                let root = (compiled.image().rules.root4, compiled.image().rules.root6);
                let words = compiled.image().rules.words.len();
                compiled = if comes {
                    now.insert(said);
                    compiled.edited(&[said], &[]).unwrap()
                } else {
                    now.remove(&said);
                    compiled.edited(&[], &[said]).unwrap()
                };
                let rules = &compiled.image().rules;
                let is_followed = (rules.root4, rules.root6) == root && rules.words.len() >= words;
                followed += u32::from(is_followed && rules.words.len() > words);
                let whole = compile(&policy(&now)).unwrap();
                assert_eq!(meaning(compiled.image()), meaning(&whole), "{text} {effect} {comes}");
            }
        }
    }
    assert!(followed >= 8, "{followed} of 24 were followed");
}
