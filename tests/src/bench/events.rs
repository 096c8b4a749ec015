//! A flood while drop events are told, and are read, beside one where next to none are: one a second is
//! the least that can be asked for.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::{net::if_::if_nametoindex, sys::signal::Signal};
use ollama_guard_common::Mode;

use super::{
    Options, feeder,
    flood::{addressed, flood, set_checksum},
    lists,
    program::knock,
    report::{Report, Table},
    summary::Summary,
};
use crate::bed::{CABLE_MTU, CLIENT_INTERFACE, GuardSetup, Pair, SERVER_DOOR, until};

/// The two ways: what the configuration says.
const WAYS: [(&str, &str); 2] = [
    ("one event a second", "[events]\nper_second = 1"),
    ("the default events, and a reader of them", ""),
];
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures both, with the daemon as it is used.
///
/// # Errors
///
/// If the bed fails, or if the books are not exact.
pub fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    say("events");
    let object = feeder::object()?;
    let pair = Pair::new(CABLE_MTU)?;
    let packet = addressed(&pair, knock(false))?;
    let mut sources = lists::strangers(&[], false);
    sources.iter_mut().for_each(|source| set_checksum(source, &packet.frame));
    let ifindex = pair.client.enter(|| if_nametoindex(CLIENT_INTERFACE))??;
    let mut sender = feeder::load(&object, &packet, &sources, ifindex)?;
    feeder::program(&mut sender, "flood")?;
    let mut found = [Vec::new(), Vec::new()];
    for round in 0..options.rounds() {
        for place in 0..WAYS.len() {
            let way = if round % 2 == 0 { place } else { WAYS.len() - 1 - place };
            let (name, config) = WAYS[way];
            let setup = GuardSetup::of(SERVER_DOOR).attach("native").config(config);
            let mut guard = setup.start(&pair.server)?;
            let reader = if way == 1 {
                Some(guard.follow(&["events", "--follow"], "events")?)
            } else {
                None
            };
            let spent = pair.client.enter(|| flood(&mut sender, &packet))?;
            found[way].push(spent.with_context(|| name)?);
            until("the books to balance", PATIENCE, || {
                guard.status().and_then(|status| status.book(Mode::Enforce)).is_ok_and(|book| {
                    book.dropped > 0 && book.balances() && (way == 0) == (book.submitted < 100)
                })
            })?;
            if let Some((mut reader, path)) = reader {
                reader.signal(Signal::SIGTERM)?;
                ensure!(path.metadata()?.len() > 0, "nobody read an event");
            }
            guard.stop()?;
        }
    }
    let ratio = Summary::ratio(&found[1], &found[0]);
    report.at_most("events read against next to none, flood, ratio", 1.05, ratio.median);
    let row = |(name, rounds): (&str, &Vec<f64>)| {
        let ratio = Summary::ratio(rounds, &found[0]);
        vec![name.to_owned(), format!("{:.0}", Summary::of(rounds)), format!("{ratio:.2}")]
    };
    report.tables.push(Table {
        title: "Drop events in a flood".into(),
        note: "Nanoseconds of processor time for each dropped SYN, as above, in native mode, with a daemon \
               and an empty allowlist. In each round the books were exact: every drop is an event, or is \
               counted as one that was not told."
            .into(),
        head: ["the daemon tells", "ns a packet", "ratio"].map(String::from).to_vec(),
        rows: WAYS.iter().map(|(name, _)| *name).zip(&found).map(row).collect(),
    });
    Ok(())
}
