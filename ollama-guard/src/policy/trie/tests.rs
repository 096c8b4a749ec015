//! The tries against the plain definition: of all prefixes that cover an address, the longest.

use std::collections::BTreeSet;

use ollama_guard_common::{
    abi::{RuleBlock, rule_blocks},
    trie::{is_stranger4, is_stranger6},
};
use proptest::prelude::*;

use super::*;

const SETS: u32 = 40;

fn sets() -> Vec<RuleSet> {
    (0..SETS).map(|number| RuleSet { reach: number, denied: number * 7 }).collect()
}

fn rest(length: u32) -> u128 {
    u128::MAX.checked_shr(length).unwrap_or(0)
}

/// Every boundary of a prefix, and what is said from there on.
fn expected(said: &[(u128, u32, u32)]) -> Vec<Range<u128>> {
    let mut starts = BTreeSet::from([0]);
    for &(address, length, _) in said {
        starts.insert(address);
        if let Some(behind) = (address | rest(length)).checked_add(1) {
            starts.insert(behind);
        }
    }
    let mut ranges: Vec<Range<u128>> = Vec::new();
    for first in starts {
        let covering =
            said.iter().filter(|(address, length, _)| first & !rest(*length) == *address);
        let set = covering.max_by_key(|(_, length, _)| *length).map_or(0, |&(_, _, set)| set);
        if let Some(before) = ranges.last_mut() {
            before.last = first - 1;
            if before.set == set {
                continue;
            }
        }
        ranges.push(Range { first, last: u128::MAX, set });
    }
    if let Some(last) = ranges.last_mut() {
        last.last = u128::MAX;
    }
    ranges
}

/// The table of both families for prefixes with their addresses on the left.
fn table(v4: &[(u128, u32, u32)], v6: &[(u128, u32, u32)]) -> RuleTable {
    let v4: Vec<Said<u32>> = v4
        .iter()
        .map(|&(address, length, set)| Said { address: (address >> 96) as u32, length, set })
        .collect();
    let v6: Vec<Said<u128>> =
        v6.iter().map(|&(address, length, set)| Said { address, length, set }).collect();
    RuleTable::build(&sets(), &v4, &v6)
}

/// The prefixes in order, each once, without bits behind their length.
fn ordered(said: impl IntoIterator<Item = (u128, u32, u32)>) -> Vec<(u128, u32, u32)> {
    let mut said: Vec<_> = said
        .into_iter()
        .map(|(address, length, set)| (address & !rest(length), length, set))
        .collect();
    said.sort_by_key(|&(address, length, _)| (address, length));
    said.dedup_by_key(|&mut (address, length, _)| (address, length));
    said
}

fn check(v4: &[(u128, u32, u32)], v6: &[(u128, u32, u32)]) {
    let table = table(v4, v6);
    let wide = |range: &Range<u32>| Range {
        first: u128::from(range.first) << 96,
        last: u128::from(range.last) << 96 | rest(32),
        set: range.set,
    };
    let ranges: Vec<_> = ranges4(&table).unwrap().iter().map(wide).collect();
    assert_eq!(ranges, expected(v4), "IPv4");
    for range in &ranges {
        for address in [range.first, range.last] {
            let source = (address >> 96) as u32;
            let found = table.find(IpAddr::V4(source.into()));
            assert_eq!(found, table.set(range.set), "{address:x}");
            let is_stranger = is_stranger4(table.words.as_slice(), table.firsts().0, source);
            assert!(!is_stranger || range.set == 0, "{address:x}");
        }
    }
    let ranges = ranges6(&table).unwrap();
    assert_eq!(ranges, expected(v6), "IPv6");
    for range in &ranges {
        for address in [range.first, range.last] {
            assert_eq!(table.find(IpAddr::V6(address.into())), table.set(range.set), "{address:x}");
            let half = (address >> 64) as u64;
            let is_stranger = is_stranger6(table.words.as_slice(), table.firsts().1, half);
            assert!(!is_stranger || range.set == 0, "{address:x}");
        }
    }
}

/// Addresses that have long beginnings in common, so that prefixes are nested and paths are long.
fn addresses() -> impl Strategy<Value = u128> {
    let bits = prop::collection::vec(0_u32..128, 0..4);
    let base = prop_oneof![Just(0x2001_0db8_u128 << 96), Just(u128::MAX), Just(0), any::<u128>()];
    (base, bits).prop_map(|(base, bits)| bits.iter().fold(base, |all, bit| all ^ 1 << bit))
}

fn said(bits: u32) -> impl Strategy<Value = Vec<(u128, u32, u32)>> {
    let one = (addresses(), 0..=bits, 0..SETS);
    prop::collection::vec(one, 0..120).prop_map(ordered)
}

proptest! {
    #[test]
    fn any_prefixes_are_answered_by_the_longest(v4 in said(32), v6 in said(128)) {
        check(&v4, &v6);
    }

    #[test]
    fn hosts_in_a_crowd_are_told_apart(
        v4 in prop::collection::btree_set(0_u32..4096, 0..800),
        v6 in prop::collection::btree_set(0_u32..4096, 0..800),
    ) {
        let v4: Vec<_> =
            v4.into_iter().map(|n| (u128::from(0x0a00_0000 + n) << 96, 32, 1 + n % 3)).collect();
        let base = 0x2001_0db8_u128 << 96;
        let v6: Vec<_> = v6.into_iter().map(|n| (base | u128::from(n) << 3, 128, 1 + n % 3)).collect();
        check(&v4, &v6);
    }

    #[test]
    fn any_words_give_an_answer_or_none(
        words in prop::collection::vec(any::<u64>(), 0..40),
        small in prop::collection::vec(0_u64..40, 0..40),
        root4 in any::<u64>(),
        root6 in any::<[u64; 2]>(),
        address in any::<u128>(),
    ) {
        let words: Vec<u64> = words.into_iter().chain(small).collect();
        for place in 0..8 {
            let table = RuleTable {
                words: words.clone(),
                root4: root4 & !0xffff_ffff | place,
                root6: [root6[0] & !0xffff_ffff | place, root6[1]],
            };
            let _ = table.find(IpAddr::V6(address.into()));
            let _ = table.find(IpAddr::V4((address as u32).into()));
            let (words, firsts) = (table.words.as_slice(), table.firsts());
            let _ = is_stranger4(words, firsts.0, address as u32);
            let _ = is_stranger6(words, firsts.1, address as u64);
        }
    }
}

/// The longest path there is: at each step another prefix, to the last bit.
#[test]
fn a_chain_of_nested_prefixes_is_followed_to_its_end() {
    for address in [u128::MAX, 0, 0x2001_0db8 << 96, u128::MAX / 3] {
        let v4: Vec<_> = (0..=32).map(|length| (address, length, 1 + length % 39)).collect();
        let v6: Vec<_> = (0..=128).map(|length| (address, length, 1 + length % 39)).collect();
        check(&ordered(v4), &ordered(v6));
    }
}

#[test]
fn everyone_and_nobody_take_no_room() {
    assert_eq!(table(&[], &[]).words.len(), SETS as usize);
    let everyone = table(&[(0, 0, 5)], &[(0, 0, 6)]);
    assert_eq!(everyone.words.len(), SETS as usize);
    assert_eq!(everyone.find("203.0.113.1".parse().unwrap()), everyone.set(5));
    assert_eq!(everyone.find("2001:db8::1".parse().unwrap()), everyone.set(6));
    check(&[(0, 0, 5)], &[(0, 0, 6)]);
}

/// Addresses without any order are the worst that a list of hosts can be.
#[test]
fn random_hosts_take_the_room_that_there_is_for_so_many() {
    let mut state = 1_u64;
    let mut random = move || {
        // xorshift64* (Marsaglia, Vigna).
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    for count in [1_000, 65_536, 100_000, 1_000_000] {
        let v4 = ordered((0..count).map(|_| (u128::from(random()) << 64, 32, 1)));
        let base = 0x2000_u128 << 112;
        let v6 =
            ordered((0..count).map(|_| {
                (base | (u128::from(random()) << 64 | u128::from(random())) >> 3, 128, 1)
            }));
        for (name, table) in [("IPv4", table(&v4, &[])), ("IPv6", table(&[], &v6))] {
            let bytes = table.words.len() * 8;
            println!("{count} {name} hosts: {bytes} bytes");
            let room = rule_blocks(count) as usize * size_of::<RuleBlock>();
            assert!(bytes <= room, "{count} {name} hosts: {bytes} bytes, room for {room}");
        }
        check(&v4[..1_000.min(v4.len())], &v6[..1_000.min(v6.len())]);
    }
}

/// Nearly all strangers to a long list are settled by its first nodes, and nobody is whom a rule is about.
#[test]
fn most_strangers_are_settled_at_once() {
    let spread = |n: u32| u128::from(n.wrapping_mul(0x9e37_79b1)) << 96;
    let v4: Vec<_> = ordered((0..1000).map(|n| (0x40 << 120 | spread(n) >> 3, 32, 1)));
    let v6: Vec<_> = ordered((0..1000).map(|n| (0x2a00 << 112 | spread(n) >> 16, 64, 1)));
    let table = table(&v4, &v6);
    let (words, (first4, first6)) = (table.words.as_slice(), table.firsts());
    let is4 = |address: u128| is_stranger4(words, first4, (address >> 96) as u32);
    let is6 = |address: u128| is_stranger6(words, first6, (address >> 64) as u64);
    assert!(v4.iter().all(|&(address, ..)| !is4(address)));
    assert!(v6.iter().all(|&(address, ..)| !is6(address)));
    let others = (0..1000).map(|n| spread(n * 7 + 5000));
    let settled4 = others.clone().filter(|&one| is4(0x40 << 120 | one >> 3)).count();
    let settled6 = others.clone().filter(|&one| is6(0x2a00 << 112 | one >> 16)).count();
    assert!(settled4 > 850 && settled6 > 850, "{settled4} and {settled6} of 1,000");
    // Off the path that all rules have in common.
    assert!(is4(0xc0 << 120) && is6(0x2001 << 112));
    // With a rule for everyone nobody is a stranger.
    let all = self::table(&ordered(v4.into_iter().chain([(0, 0, 2)])), &[]);
    assert!(others.clone().all(|one| !is_stranger4(
        &*all.words,
        all.firsts().0,
        (one >> 96) as u32
    )));
}
