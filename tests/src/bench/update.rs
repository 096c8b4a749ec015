//! Replacing a list and adding to one, with the daemon and the command as they are used.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;

use super::{
    Options,
    flood::nft,
    knocking::Knocking,
    lists::{self, Kind},
    report::{Report, Table},
    summary::Summary,
};
use crate::bed::{CABLE_MTU, Guard, GuardSetup, Pair, SERVER_DOOR, VERSION_DIRECTORY, run};

const LIMIT: Duration = Duration::from_secs(120);
/// Hosts that are added one by one.
const SPARE: usize = 16;
/// How long the daemon may take to give back what a change took for a moment.
const SETTLED: Duration = Duration::from_millis(2_500);

/// Measures updates.
///
/// # Errors
///
/// If a command fails.
pub fn measure(options: &Options, report: &mut Report, say: &dyn Fn(&str)) -> Result<()> {
    let sizes: &[usize] = if options.quick { &[1_000] } else { &[1_000, 100_000, 1_000_000] };
    let mut rows = Vec::new();
    for &count in sizes {
        say(&format!("updates: {count}"));
        rows.push(updates(options, count, report)?);
    }
    report.tables.push(Table {
        title: "Changing the rules".into(),
        note: "Milliseconds of whole commands, parsing included, median and quartiles: replacing a list of \
               IPv4 hosts by another, and adding one rule to it, until the first frame of the new friend gets \
               past the door (one comes every half millisecond) and until the command ends. Between two lists nobody is let in \
               by mistake: each is in force whole or not at all. Memory: of the daemon with such a list, \
               and of the kernel's table of it at rest; twice the latter during a change."
            .into(),
        head: [
            "hosts",
            "allow replace",
            "of that, neither list in force",
            "nft -f, hash set",
            "ipset restore and swap",
            "allow add, let in",
            "allow add, whole command",
            "daemon, MiB",
            "table, MiB",
        ]
        .map(String::from)
        .to_vec(),
        rows,
    });
    Ok(())
}

/// Milliseconds that some work takes.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// Two lists without a host in common, and hosts among them that are in neither.
fn two_lists(count: usize) -> ([Vec<IpNet>; 2], Vec<Ipv4Addr>) {
    let hosts = lists::v4(Kind::Hosts, count * 2 + SPARE);
    let (mut lists, mut spare) = ([Vec::new(), Vec::new()], Vec::new());
    let between = hosts.len() / SPARE;
    for (place, &host) in hosts.iter().enumerate() {
        if place % between == between / 2 && spare.len() < SPARE {
            spare.push(host.addr());
        } else {
            lists[place % 2].push(IpNet::from(host));
        }
    }
    (lists, spare)
}

fn updates(options: &Options, count: usize, report: &mut Report) -> Result<Vec<String>> {
    let pair = Pair::new(CABLE_MTU)?;
    let files = tempfile::tempdir()?;
    let (lists, spare) = two_lists(count);
    let mut paths = Vec::new();
    for (number, list) in lists.iter().enumerate() {
        let mut text = String::new();
        let mut ipset =
            "create -exist bench hash:ip maxelem 2097152\ncreate -exist other hash:ip maxelem \
                         2097152\nflush other\n"
                .to_owned();
        for net in list {
            writeln!(text, "{}", net.addr())?;
            writeln!(ipset, "add other {}", net.addr())?;
        }
        ipset.push_str("swap other bench\n");
        let hook = "input priority 0";
        let table = nft("inet", hook, list, false, false);
        // In one transaction with what was there before.
        let table = format!("table inet bench {{ }}\ndelete table inet bench\n{table}");
        let path = |kind: &str| files.path().join(format!("{kind}-{number}"));
        for (kind, content) in [("list", &text), ("nft", &table), ("ipset", &ipset)] {
            fs::write(path(kind), content)?;
        }
        paths.push(
            [path("list"), path("nft"), path("ipset")].map(|path| path.display().to_string()),
        );
    }
    let room = (count + 2 * SPARE).max(65_536);
    let capacity = room.to_string();
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .arguments(&["--capacity", &capacity])
        .start(&pair.server)?;
    let rounds = if count > 100_000 { options.rounds().min(3) } else { options.rounds().min(7) };
    let (mut ours, mut nft, mut ipset) = (Vec::new(), Vec::new(), Vec::new());
    let (mut adds, mut lives, mut flips) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let [list, table, set] = &paths[round % 2];
        ours.push(timed(|| guard.done(&["allow", "replace", list]).map(drop))?);
        let one = spare[round % SPARE];
        let friend = Knocking::from(&pair, one)?;
        let begin = Instant::now();
        adds.push(timed(|| guard.done(&["allow", "add", &one.to_string()]).map(drop))?);
        lives.push((friend.first_since(begin)? - begin).as_secs_f64() * 1e3);
        drop(friend);
        let in_there = |program: &str, arguments: &[&str]| -> Result<()> {
            pair.server.run(program, arguments, LIMIT)?.expect_success().map(drop)
        };
        nft.push(timed(|| in_there("nft", &["-f", table]))?);
        ipset.push(timed(|| in_there("ipset", &["restore", "-f", set]))?);
    }
    for round in 0..rounds {
        // As it is, the other list is in force.
        let number = (rounds + round) % 2;
        flips.push(flip(&pair, &guard, &lists[1 - number], &lists[number], &paths[number][0])?);
    }
    thread::sleep(SETTLED);
    let pid = guard.pid().context("the daemon runs")?;
    let resident = resident(pid.as_raw())?;
    let table = table_bytes(&guard.pin_dir().join(VERSION_DIRECTORY).display().to_string())?;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    if options.sizes().last() == Some(&count) {
        let what =
            "replacing a list, ms between the last frame by the old and the first by the new";
        report.at_most(what, 10.0, Summary::of(&flips).median);
    }
    if count == 1_000_000 {
        let above = (table as f64 - f64::from(4 << 20)) / room as f64;
        report.at_most("memory for 1,000,000 rules, bytes for each above 4 MiB", 16.0, above);
    }
    if count == 100_000 {
        let ratio = Summary::ratio(&ours, &nft).median;
        report.at_most("replace 100,000 rules, ratio to nft -f with a hash set", 0.75, ratio);
        let megabytes = resident as f64 / 1e6;
        report.at_most("daemon with 100,000 rules, MB resident", 25.0, megabytes);
    }
    if count == 1_000_000 {
        let live = Summary::of(&lives).median;
        report.at_most(
            "add one rule to 1,000,000, ms from the command to a frame let in",
            50.0,
            live,
        );
    }
    Ok(vec![
        count.to_string(),
        format!("{:.0}", Summary::of(&ours)),
        format!("{:.1}", Summary::of(&flips)),
        format!("{:.0}", Summary::of(&nft)),
        format!("{:.0}", Summary::of(&ipset)),
        format!("{:.1}", Summary::of(&lives)),
        format!("{:.1}", Summary::of(&adds)),
        format!("{:.1}", mebibytes(resident)),
        format!("{:.1}", mebibytes(table)),
    ])
}

/// Milliseconds between the last frame that the old list lets in and the first one that the new list does.
fn flip(pair: &Pair, guard: &Guard<'_>, old: &[IpNet], new: &[IpNet], path: &str) -> Result<f64> {
    let first = |list: &[IpNet]| match list.first().map(IpNet::addr) {
        Some(IpAddr::V4(address)) => Ok(address),
        other => bail!("{other:?} is no IPv4 host"),
    };
    let (leaving, coming) =
        (Knocking::from(pair, first(old)?)?, Knocking::from(pair, first(new)?)?);
    let begin = Instant::now();
    leaving.first_since(begin).context("the old list is not in force")?;
    guard.done(&["allow", "replace", path])?;
    let came = coming.first_since(begin)?;
    let last = leaving.last().context("the old list was not in force")?;
    // Two sources do not knock at the same moment: the pause between their frames is the least.
    Ok(came.saturating_duration_since(last).as_secs_f64() * 1e3)
}

/// Bytes of memory that a process has.
fn resident(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kibibytes * 1024)
}

/// Bytes of the arrays of rules that are pinned.
fn table_bytes(directory: &str) -> Result<u64> {
    let mut bytes = 0;
    for slot in 0..2 {
        let pin = format!("{directory}/OG_RULES-{slot}");
        let mut command = std::process::Command::new("bpftool");
        let shown = run(command.args(["--json", "map", "show", "pinned", &pin]), LIMIT)?;
        if let Ok(text) = shown.expect_success() {
            let map: serde_json::Value = serde_json::from_str(text)?;
            let found = &map["bytes_memlock"];
            bytes += found.as_u64().context("no bytes")?;
        }
    }
    Ok(bytes)
}
