//! From the start of the daemon to the first frame of a stranger that is dropped, and to where it is
//! ready.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Options,
    knocking::{Knocking, PAUSE},
    lists::{self, Kind},
    report::{Report, Table},
    summary::Summary,
};
use crate::{
    bed::{CABLE_MTU, GuardSetup, Pair, SERVER_DOOR},
    policy::STRANGER4,
};

/// How long strangers are to be silent behind the start.
const AFTERWARDS: Duration = Duration::from_millis(50);
/// Rules that a host may have stored.
const STORED: usize = 100_000;

/// Measures starts.
///
/// # Errors
///
/// If one fails, or a stranger gets past a guard that is ready.
pub fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    let mut rows = Vec::new();
    for stored in [0, STORED] {
        say(&format!("starts: {stored} stored rules"));
        let (dropped, ready) = starts(options, stored)?;
        if stored == STORED {
            let what = "start to first drop, 100,000 rules, ms";
            report.at_most(what, 300.0, dropped.median);
        } else {
            report.at_most("start to first drop, ms", 300.0, dropped.median);
        }
        rows.push(vec![stored.to_string(), format!("{dropped:.0}"), format!("{ready:.0}")]);
    }
    report.tables.push(Table {
        title: "A start".into(),
        note: "Milliseconds from the start of the daemon, with nothing loaded before, as after a reboot: until \
               the last frame of a stranger gets past the door (one comes every half millisecond), and until \
               the daemon has loaded and proven everything and answers on its socket."
            .into(),
        head: ["stored rules", "strangers are dropped", "ready"].map(String::from).to_vec(),
        rows,
    });
    Ok(())
}

/// To the first drop, and to where it is ready.
fn starts(options: &Options, stored: usize) -> Result<(Summary, Summary)> {
    let pair = Pair::new(CABLE_MTU)?;
    let capacity = (STORED + 100).to_string();
    let mut guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .arguments(&["--capacity", &capacity])
        .prepare(&pair.server)?;
    guard.start()?;
    if stored > 0 {
        let hosts = lists::v4(Kind::Hosts, stored);
        let lines: Vec<String> = hosts.iter().map(|net| net.to_string()).collect();
        let file = guard.file("stored.txt");
        fs::write(&file, lines.join("\n"))?;
        guard.done(&["allow", "replace", &file.display().to_string()])?;
    }
    let (mut dropped, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds() {
        guard.kill9()?;
        guard.done(&["detach"])?;
        let stranger = Knocking::from(&pair, STRANGER4)?;
        let open = Instant::now();
        stranger.first_since(open).context("without a guard")?;
        let begin = Instant::now();
        guard.start()?;
        ready.push(milliseconds(begin.elapsed()));
        let end = Instant::now();
        thread::sleep(AFTERWARDS);
        let last = stranger.last().context("nobody knocked")?;
        ensure!(last < end, "a stranger got past a guard that is ready");
        ensure!(last > begin, "no frame came between");
        dropped.push(milliseconds(last + PAUSE - begin));
    }
    Ok((Summary::of(&dropped), Summary::of(&ready)))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
