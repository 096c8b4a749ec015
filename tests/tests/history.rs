//! The events of the past: over deaths of the daemon, damaged files and disks that are full, and
//! bounded in a flood.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ollama_guard_tests::{
    bed::{
        Bed, CLIENT_INTERFACE, Flood, Guard, GuardSetup, SERVER_DOOR, Standin, Wire,
        only_the_friend_is_served, until, until_some,
    },
    packet::{ipv4, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, STRANGER4},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

fn guard_for_the_friend() -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4).allow(FRIEND6)
}

/// A SYN from this address, by the stranger's cable.
fn knock(bed: &Bed, source: Ipv4Addr, port: u16) -> Vec<u8> {
    bed.stranger4.ethernet().carries_ip(&ipv4(source, SERVER4).carries(&tcp(port, GUARDED)))
}

fn send(bed: &Bed, frames: &[Vec<u8>]) -> Result<()> {
    let wire = Wire::open(&bed.stranger4.namespace, CLIENT_INTERFACE)?;
    frames.iter().try_for_each(|frame| wire.send(frame))
}

/// The lines of `events --since 1h`, with whatever else is asked.
fn past(guard: &Guard<'_>, more: &[&str]) -> Result<Vec<Value>> {
    let arguments = [&["events", "--since", "1h", "--json"], more].concat();
    guard.done(&arguments)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The ports that knocks came from, each of which is told once.
fn ports(lines: &[Value]) -> Result<Vec<u64>> {
    let ports: Vec<_> = lines.iter().filter_map(|line| line["source_port"].as_u64()).collect();
    let different: HashSet<_> = ports.iter().collect();
    ensure!(different.len() == ports.len(), "something is told twice: {ports:?}");
    Ok(ports)
}

/// Knocks from this port until the event is there.
fn knock_and_see(bed: &Bed, guard: &Guard<'_>, source: Ipv4Addr, port: u16) -> Result<Value> {
    send(bed, &[knock(bed, source, port)])?;
    let is_it = |line: &Value| line["source_port"] == port && line["source"] == source.to_string();
    until_some("the event to be told", PATIENCE, || past(guard, &[]).ok()?.into_iter().find(is_it))
}

fn history(guard: &Guard<'_>) -> Result<Value> {
    let text = guard.cli(&["status", "--json"])?.stdout;
    let status: Value = serde_json::from_str(&text).context(text)?;
    Ok(status["daemon"]["history"].clone())
}

/// Where the files are, and the last one.
fn files(guard: &Guard<'_>) -> Result<Vec<PathBuf>> {
    let directory = guard.state_dir().join("events");
    let mut files: Vec<_> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_was_told_is_told_again_after_kill_9_and_without_a_daemon() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let first = knock_and_see(&bed, &guard, STRANGER4, 40_001)?;
    assert_eq!(first["marks"], serde_json::json!(["first-seen"]), "{first}");
    let other = Ipv4Addr::new(203, 0, 113, 67);
    knock_and_see(&bed, &guard, other, 40_002)?;
    guard.kill9()?;

    // By the command itself, which says so.
    let alone = guard.cli(&["events", "--since", "1h"])?;
    assert!(alone.stderr.starts_with("no daemon answers: this is read from "), "{}", alone.stderr);
    let text = alone.expect_success()?;
    assert!(text.contains("40001") && text.contains("40002") && text.contains("first-seen"));
    assert_eq!(ports(&past(&guard, &[])?)?, [40_001, 40_002]);
    assert!(past(&guard, &["--until", "1h"])?.is_empty());
    let following = guard.cli(&["events", "--since", "1h", "--follow"])?;
    assert_eq!(following.code, Some(2), "nobody to follow: {}", following.stderr);

    // By the next daemon, whose own come behind it; who knocked before is not first seen.
    guard.start()?;
    let again = knock_and_see(&bed, &guard, STRANGER4, 40_003)?;
    assert!(again.get("marks").is_none(), "{again}");
    assert_eq!(ports(&past(&guard, &[])?)?, [40_001, 40_002, 40_003]);
    let between = past(&guard, &["--until", again["time"].as_str().context("a time")?])?;
    assert_eq!(ports(&between)?, [40_001, 40_002]);
    assert_eq!(guard.done(&["events", "--json"])?.lines().count(), 1, "of this daemon");
    guard.stop()?;
    guard.start()?;
    let (_follower, output) =
        guard.follow(&["events", "--since", "1h", "--follow", "--json"], "followed")?;
    knock_and_see(&bed, &guard, other, 40_004)?;
    until("the follower to have the past and the present", PATIENCE, || {
        let text = fs::read_to_string(&output).unwrap_or_default();
        (40_001..=40_004).all(|port| text.contains(&port.to_string()))
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_torn_and_a_damaged_file_cost_their_own_records_only() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    for port in 40_001..=40_004 {
        knock_and_see(&bed, &guard, STRANGER4, port)?;
    }
    guard.kill9()?;
    let path = files(&guard)?.pop().context("a file")?;
    let mut bytes = fs::read(&path)?;
    // The second event is damaged, the last one cut.
    let at = bytes.windows(5).position(|word| word == b"40002").context("the event")?;
    bytes[at] = b'5';
    fs::write(&path, &bytes[..bytes.len() - 7])?;
    fs::write(path.with_file_name("99999999.log"), [0; 5000])?;
    guard.hand_over(&path.with_file_name("99999999.log"))?;

    let text = guard.done(&["events", "--since", "1h"])?;
    assert!(text.contains("-- 1 records of the history here are damaged"), "{text}");
    guard.start()?;
    knock_and_see(&bed, &guard, STRANGER4, 40_005)?;
    let lines = past(&guard, &[])?;
    assert_eq!(ports(&lines)?, [40_001, 40_003, 40_005]);
    let damaged: u64 = lines.iter().filter_map(|line| line["damaged"].as_u64()).sum();
    assert_eq!(damaged, 3, "{lines:?}");
    assert!(guard.status()?.is_enforcing()?);
    only_the_friend_is_served(&bed)
}

/// A file system of its own on a directory, gone with the test.
struct Mounted<'p>(&'p Path);

impl<'p> Mounted<'p> {
    fn tmpfs(path: &'p Path, options: &str) -> Result<Self> {
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options))?;
        Ok(Self(path))
    }

    fn again(&self, flags: MsFlags, options: &str) -> Result<()> {
        let flags = MsFlags::MS_REMOUNT | flags;
        Ok(mount(None::<&str>, self.0, None::<&str>, flags, Some(options))?)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.0, MntFlags::MNT_DETACH) {
            println!("left behind: {}: {error}", self.0.display());
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_full_disk_and_a_read_only_one_cost_the_history_and_nothing_else() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().prepare(&bed.server.namespace)?;
    let (state, events) = (guard.state_dir(), guard.state_dir().join("events"));
    DirBuilder::new().recursive(true).mode(0o700).create(&events)?;
    let disk = Mounted::tmpfs(&events, "size=16k,mode=0700")?;
    guard.hand_over(&state)?;
    guard.hand_over(&events)?;
    guard.start()?;
    let many = |from: u32| -> Vec<_> {
        (0..100).map(|n| knock(&bed, Ipv4Addr::from(0xc633_6400 + from + n), 40_000)).collect()
    };
    send(&bed, &many(0))?;
    let trouble = |guard: &Guard<'_>| history(guard).ok()?["trouble"].as_str().map(str::to_owned);
    let full = until_some("the disk to be full", PATIENCE, || trouble(&guard))?;
    assert!(full.starts_with("cannot write events to ") && full.contains("space"), "{full}");
    let text = guard.cli(&["status"])?;
    assert!(
        text.stdout.contains("history  events are not kept at the moment: "),
        "{}",
        text.stdout
    );
    assert_eq!(text.code, Some(0), "the guard is well: {}", text.stdout);
    send(&bed, &many(100))?;
    // The stream goes on, and so do changes.
    until("the stream to go on", PATIENCE, || {
        guard.done(&["events"]).is_ok_and(|text| text.contains("198.51.100.199"))
    })?;
    guard.done(&["deny", "add", "198.51.100.0/24"])?;
    only_the_friend_is_served(&bed)?;
    let told = guard.log().matches("events are not kept until that works again").count();
    assert_eq!(told, 1, "{}", guard.log());

    // Room again.
    disk.again(MsFlags::empty(), "size=1m")?;
    let mut port = 41_000;
    until("events to be kept again", PATIENCE, || {
        port += 1;
        knock_and_see(&bed, &guard, STRANGER4, port).is_ok() && trouble(&guard).is_none()
    })?;
    let lines = past(&guard, &[])?;
    assert!(lines.iter().any(|line| line["unwritten"].as_u64() > Some(0)), "{lines:?}");
    guard.stop()?;
    disk.again(MsFlags::MS_RDONLY, "size=1m")?;
    guard.start()?;
    let refused = until_some("the disk to refuse", PATIENCE, || trouble(&guard))?;
    assert!(refused.contains("Read-only"), "{refused}");
    knock_and_see(&bed, &guard, STRANGER4, 42_001)?;
    assert!(guard.status()?.is_enforcing()?);
    guard.stop().map(drop)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flood_of_invented_addresses_writes_little_and_is_counted() -> Result<()> {
    const KEEP: u64 = 1 << 20;
    let bed = Bed::new()?;
    let config = "[[service]]\nname = \"ollama\"\n[events]\nper_second = 20000\nkeep = \"1 MiB\"\n";
    let mut guard = guard_for_the_friend().config(config).start(&bed.server.namespace)?;
    let frames =
        (0..30_000).map(|n| knock(&bed, Ipv4Addr::from(0x0a00_0000 + n), 40_000)).collect();
    let host = &bed.stranger4.namespace;
    Flood::start(host, CLIENT_INTERFACE, frames, 60_000, PATIENCE)?.finish()?;
    let found = until_some("events to be passed over", PATIENCE, || {
        history(&guard).ok().filter(|history| history["unwritten"].as_u64() > Some(1000))
    })?;
    println!("{found}");
    let on_disk = |guard: &Guard<'_>| -> Result<u64> {
        files(guard)?.iter().map(|path| Ok(fs::metadata(path)?.len())).sum()
    };
    let bytes = on_disk(&guard)?;
    // A twenty-fourth at once, and a little for the time that it took.
    assert!((KEEP / 30..KEEP / 24 + KEEP / 100).contains(&bytes), "{bytes}");
    // What is there is told, with what is missing.
    let lines = past(&guard, &[])?;
    assert!(lines.len() > 100, "{lines:?}");

    // A burst of one source is marked. Where the daemon has much to do, another one is needed: what finds no
    // place in the ring is counted and not told.
    until("the burst to be marked", PATIENCE, || {
        let frames = vec![knock(&bed, STRANGER4, 40_000)];
        let flood = Flood::start(host, CLIENT_INTERFACE, frames, 2000, PATIENCE);
        flood.and_then(Flood::finish).is_ok()
            && guard.done(&["events"]).is_ok_and(|text| {
                let is_it = |line: &str| line.contains("203.0.113.66") && line.ends_with("burst");
                text.lines().any(is_it)
            })
    })?;
    // Less is kept from now on, then nothing.
    for (keep, most) in [("256 KiB", 256 << 10), ("0", 0)] {
        guard.write_config(&config.replace("1 MiB", keep))?;
        guard.done(&["reload"])?;
        until("the files to be as small", PATIENCE, || on_disk(&guard).is_ok_and(|n| n <= most))?;
    }
    assert!(files(&guard)?.is_empty());
    guard.stop()?;
    let none = File::open(guard.state_dir().join("events"))?;
    ensure!(none.metadata()?.is_dir());
    Ok(())
}
