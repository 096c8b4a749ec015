//! The corpus of the fuzz targets and the table of packets, by the function that the fuzz targets
//! call: `judge` against a parser that somebody else wrote.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails, with a backtrace")]

#[path = "../../ollama-guard-common/fuzz/src/second_opinion.rs"]
mod second_opinion;

use std::{collections::BTreeMap, fs, path::Path};

use ollama_guard_common::{Judgement, Mode, Reason, Start, Verdict, Wanted, judge};
use ollama_guard_tests::table::table;

use self::second_opinion::{Lists, agree, check};

/// Every frame of the corpus, with its file's name.
fn corpus() -> Vec<(String, Start, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ollama-guard-common/fuzz/corpus");
    let mut frames = Vec::new();
    for (target, start) in [("judge-link", Start::Link), ("judge-network", Start::Network)] {
        let mut files: Vec<_> = fs::read_dir(fuzz.join(target))
            .unwrap_or_else(|error| panic!("the corpus of {target}: {error}"))
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        for file in files {
            frames.push((file.display().to_string(), start, fs::read(file).unwrap()));
        }
    }
    frames
}

fn frames() -> Vec<(String, Start, Vec<u8>)> {
    let table = table().into_iter().map(|case| (case.name, case.start, case.frame));
    table.chain(corpus()).collect()
}

#[test]
fn two_parsers_agree_on_every_frame_of_the_corpus_and_the_table() {
    let frames = frames();
    let wrong: Vec<String> = frames
        .iter()
        .filter_map(|(name, start, frame)| {
            check(frame, *start).err().map(|why| format!("{name}: {why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), frames.len(), wrong.join("\n"));
    println!("{} frames, one opinion", frames.len());
}

#[test]
fn the_corpus_reaches_every_reason() {
    let mut reached: BTreeMap<Reason, usize> = BTreeMap::new();
    let corpus = corpus();
    for (_, start, frame) in &corpus {
        for lists in Lists::ALL {
            *reached.entry(judge(frame.as_slice(), *start, &lists).reason).or_default() += 1;
        }
    }
    println!("{} frames: {reached:?}", corpus.len());
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::RulesAbsent) {
        assert!(reached.contains_key(reason), "no frame of the corpus shows {reason:?}");
    }
}

/// What a parser that is wrong in one way would say.
type Wrong = fn(&[u8], Start, &Lists) -> Judgement;

#[test]
fn a_judge_that_is_wrong_in_one_way_is_noticed() {
    let wrong: [(&str, Wrong); 7] = [
        ("lets everything pass", |_, _, _| judged(Reason::NotGuarded)),
        ("drops everything", |_, _, _| judged(Reason::NotListed)),
        ("lets pass what it cannot read", |frame, start, lists| {
            let judgement = judge(frame, start, lists);
            let unreadable = judgement.verdict() == Verdict::Drop && judgement.transport.is_none();
            if unreadable { judged(Reason::NotGuarded) } else { judgement }
        }),
        ("does not know the second kind of tag", |frame, start, lists| {
            let blind = start == Start::Link && frame.get(12..14) == Some(&[0x88, 0xa8]);
            if blind { judged(Reason::NotGuarded) } else { judge(frame, start, lists) }
        }),
        ("takes a first fragment for a later one", |frame, start, lists| {
            let fragment = start == Start::Network && matches!(frame.get(6), Some(0x20));
            if fragment { judged(Reason::NotGuarded) } else { judge(frame, start, lists) }
        }),
        ("stops at the first extension header", |frame, start, lists| {
            let options = start == Start::Network
                && frame.first().is_some_and(|first| first >> 4 == 6)
                && frame.get(6) == Some(&60);
            if options { judged(Reason::NotGuarded) } else { judge(frame, start, lists) }
        }),
        ("believes a source of the loopback network", |frame, start, lists| {
            let judgement = judge(frame, start, lists);
            let loopback = judgement.reason == Reason::SourceLoopback;
            if loopback { judged(Reason::NotListed) } else { judgement }
        }),
    ];
    let frames = frames();
    for (what, wrong) in wrong {
        let noticed = frames.iter().any(|(_, start, frame)| {
            let lists = Lists::Tcp;
            agree(frame, *start, lists, &wrong(frame, *start, &lists)).is_err()
        });
        assert!(noticed, "nobody notices a judge that {what}");
    }
}

const fn judged(reason: Reason) -> Judgement {
    Judgement {
        reason,
        terms: Wanted::plainly(Mode::Enforce).terms,
        network: None,
        protocol: None,
        transport: None,
    }
}
