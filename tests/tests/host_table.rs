//! The table of packets, judged on the host.

use std::collections::{BTreeMap, HashSet};

use ollama_guard_common::{Reason, Start, Verdict};
use ollama_guard_tests::table::table;

#[test]
fn every_packet_gets_the_verdict_and_the_reason_of_the_table() {
    let table = table();
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|case| {
            let judgement = case.judged();
            let got = (judgement.verdict(), judgement.reason);
            (got != case.expect)
                .then(|| format!("{}: {got:?} instead of {:?}", case.name, case.expect))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), table.len(), wrong.join("\n"));
    println!("{} packets judged as the table says", table.len());
}

#[test]
fn names_are_unique_sentences() {
    let mut seen = HashSet::new();
    for case in table() {
        assert!(!case.name.contains(' '), "{} has a space", case.name);
        assert!(seen.insert(case.name.clone()), "{} stands there twice", case.name);
    }
}

#[test]
fn the_table_shows_every_reason_at_both_starts() {
    let mut shown: BTreeMap<Reason, HashSet<bool>> = BTreeMap::new();
    for case in table() {
        shown.entry(case.expect.1).or_default().insert(case.start == Start::Link);
    }
    for reason in Reason::ALL {
        // No frame on the wire leads here: only a policy without rules does.
        if *reason == Reason::RulesAbsent {
            continue;
        }
        let starts = shown.get(reason).unwrap_or_else(|| panic!("no packet shows {reason:?}"));
        let one_start_only =
            matches!(reason, Reason::LinkHeaderCut | Reason::VersionMismatch | Reason::TagOrIpv6);
        assert_eq!(starts.len(), if one_start_only { 1 } else { 2 }, "{reason:?}");
    }
}

#[test]
fn a_judgement_points_at_headers_that_are_there() {
    for case in table() {
        let judgement = case.judged();
        if let Some(transport) = judgement.transport {
            assert!(transport + 4 <= case.frame.len(), "{}", case.name);
        }
        if let Some(network) = judgement.network {
            assert!(network.ends(case.frame.as_slice()).is_some(), "{}", case.name);
        }
        if judgement.verdict() == Verdict::Drop && judgement.network.is_some() {
            assert_ne!(judgement.reason, Reason::NotGuarded, "{}", case.name);
        }
    }
}
