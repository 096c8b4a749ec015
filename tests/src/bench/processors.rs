//! The same flood on one processor and on two at once: what nobody shares costs no more.

use std::{path::Path, sync::Barrier, thread};

use anyhow::{Context as _, Result, anyhow};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use ollama_guard_common::bench::Source;

use super::{
    Options,
    feeder::{self, Entry, Feeder, XDP_DROP},
    lists::{self, Kind},
    program::{guard, knock, rules},
    report::{Report, Table},
    stay_on_processor,
    summary::Summary,
};

/// How long a run takes, in milliseconds.
const RUN: f64 = 100.0;
/// How much more a drop may take when two processors do it, beside a program that shares nothing.
const SHARED_NOTHING: f64 = 1.1;

/// Measures drops on one processor, and on two at once.
///
/// # Errors
///
/// If the kernel refuses.
pub fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    say("two processors at once");
    let object = feeder::object()?;
    let rules = rules(Kind::Prefixes, 1_000);
    let loaded = guard(&rules)?;
    let pin = loaded.pin("link");
    let sources = lists::strangers(&rules, false);
    let mut found: [[Vec<f64>; 2]; 2] = Default::default();
    for _ in 0..options.rounds() {
        for (program, found) in found.iter_mut().enumerate() {
            for (place, found) in found.iter_mut().enumerate() {
                let measured = if program == 0 { None } else { Some(pin.as_path()) };
                found.push(at_once(&object, &sources, measured, place + 1)?);
            }
        }
    }
    let [bare, ours] = &found;
    let growth = |of: &[Vec<f64>; 2]| Summary::ratio(&of[1], &of[0]);
    let rows = [("bare XDP_DROP", bare), ("ollama-guard, 1000 prefixes", ours)]
        .map(|(name, of)| {
            vec![
                name.to_owned(),
                format!("{:.1}", Summary::of(&of[0])),
                format!("{:.1}", Summary::of(&of[1])),
                format!("{:.2}", growth(of)),
            ]
        })
        .to_vec();
    report.at_most(
        "drop on two processors at once, ratio to one, beside the same of bare XDP_DROP",
        SHARED_NOTHING,
        growth(ours).median / growth(bare).median,
    );
    report.tables.push(Table {
        title: "Two processors at once".into(),
        note: "Nanoseconds of a processor for each dropped SYN, its feeder included, by one processor and by \
               two at the same time; each has packets of its own, and both the same program and rules."
            .into(),
        head: ["who drops", "one", "two", "ratio"].map(String::from).to_vec(),
        rows,
    });
    Ok(())
}

/// The mean of so many processors that drop at the same time.
fn at_once(
    object: &[u8],
    sources: &[Source],
    measured: Option<&Path>,
    count: usize,
) -> Result<f64> {
    let barrier = Barrier::new(count);
    let each = thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|processor| {
                let barrier = &barrier;
                scope.spawn(move || one(object, sources, measured, processor, barrier))
            })
            .collect();
        let joined = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        joined.collect::<Result<Vec<f64>>>()
    })?;
    Ok(each.iter().sum::<f64>() / count as f64)
}

/// What one of them takes. Whatever fails, the barrier is passed, so that nobody waits for ever.
fn one(
    object: &[u8],
    sources: &[Source],
    measured: Option<&Path>,
    processor: usize,
    barrier: &Barrier,
) -> Result<f64> {
    let prepared = prepare(object, sources, measured, processor);
    barrier.wait();
    let (mut feeder, packets) = prepared?;
    feeder.run(packets)
}

fn prepare(
    object: &[u8],
    sources: &[Source],
    measured: Option<&Path>,
    processor: usize,
) -> Result<(Feeder, u32)> {
    stay_on_processor(processor)?;
    let packet = knock(false);
    let mut feeder = Feeder::new(object, &packet, sources, Entry::Buffers)?;
    // The feeder holds it from here.
    match measured {
        Some(pin) => {
            let program = Xdp::from_pin(pin, XdpAttachType::Interface)?;
            feeder.aim_at(program.fd()?)?;
        }
        None => {
            let mut bare = feeder::load(object, &packet, &[], 0)?;
            feeder.aim_at(feeder::program(&mut bare, "bare_drop")?.fd()?)?;
        }
    }
    let packets = feeder.calibrate(RUN, XDP_DROP).context("calibrating")?;
    Ok((feeder, packets))
}
