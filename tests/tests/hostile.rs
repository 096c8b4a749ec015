//! Files, uploads and neighbours that mean no good: each is refused by name, quickly and within
//! bounds, and what is in force stays.
//!
//! Long because there are many ways to mean no good.

use std::{
    fs::{self, File, Permissions},
    io::{Read, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixStream,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode as FileMode,
    unistd::mkfifo,
};
use ollama_guard_tests::{
    bed::{
        Bed, CLIENT_INTERFACE, Finished, Flood, Guard, GuardSetup, SERVER_DOOR, Standin, Wire,
        only_the_friend_is_served, pins, run, until, until_some, write_garbage,
    },
    packet::{ipv4, tcp},
    policy::{FRIEND4, FRIEND6, GUARDED, SERVER4, STRANGER4},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// The longest that a file of the largest size may be looked at, on a busy machine.
const QUICK: Duration = Duration::from_secs(20);
const KIB_OF_A_LARGE_FILE: u64 = 512 * 1024;

fn guard_for_the_friend() -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4).allow(FRIEND6)
}

/// A file that is no configuration, and what the refusal must say beside its name.
struct Hostile {
    what: &'static str,
    hint: &'static str,
    make: fn(&Path) -> Result<()>,
}

/// `text` a hundred thousand times, between two ends.
fn deep(before: &str, open: &str, close: &str) -> String {
    format!("{before}{}{}\n", open.repeat(100_000), close.repeat(100_000))
}

fn sparse(path: &Path, bytes: u64) -> Result<()> {
    Ok(File::create(path)?.set_len(bytes)?)
}

const HOSTILE: [Hostile; 17] = [
    Hostile {
        what: "lists within lists",
        hint: "hostile.toml:2:",
        make: |path| Ok(fs::write(path, deep("[[service]]\nallow = ", "[", "]"))?),
    },
    Hostile {
        what: "lists that do not end",
        hint: "hostile.toml:1:",
        make: |path| Ok(fs::write(path, deep("exclude = ", "[", ""))?),
    },
    Hostile {
        what: "tables within tables",
        hint: "hostile.toml:1:",
        make: |path| Ok(fs::write(path, deep("x = ", "{a = ", "}"))?),
    },
    Hostile {
        what: "a key of a hundred thousand parts",
        hint: "hostile.toml:1:",
        make: |path| Ok(fs::write(path, deep("a", ".a", "") + " = 1")?),
    },
    Hostile {
        what: "a table of a hundred thousand parts",
        hint: "hostile.toml:1:",
        make: |path| Ok(fs::write(path, deep("[a", ".a", "").trim().to_owned() + "]\n")?),
    },
    Hostile {
        what: "twenty thousand unknown keys",
        hint: "hostile.toml:1:",
        make: |path| {
            let keys: String = (0..20_000).map(|n| format!("key{n} = {n}\n")).collect();
            Ok(fs::write(path, keys)?)
        },
    },
    Hostile {
        what: "a million rules",
        hint: "--capacity",
        make: |path| {
            let rules: String = (0..1_000_000_u32)
                .map(|n| format!("\"{}\",", std::net::Ipv4Addr::from(0x0a00_0000 + n)))
                .collect();
            Ok(fs::write(path, format!("[[service]]\nallow = [{rules}]\n"))?)
        },
    },
    Hostile { what: "nothing but holes", hint: "64 MiB", make: |path| sparse(path, 1 << 40) },
    Hostile {
        what: "the largest file, of zeroes",
        hint: "zero byte",
        make: |path| sparse(path, 64 << 20),
    },
    Hostile {
        what: "bytes that are no text",
        hint: "UTF-8",
        make: |path| Ok(fs::write(path, b"mode = \"enf\xff\xferce\"\n")?),
    },
    Hostile {
        what: "half a character",
        hint: "UTF-8",
        make: |path| Ok(fs::write(path, b"# \xe2\x82")?),
    },
    Hostile {
        what: "a named pipe",
        hint: "no regular file",
        make: |path| {
            mkfifo(path, FileMode::S_IRUSR)?;
            // Whoever reads it, whatever the umask says.
            Ok(fs::set_permissions(path, Permissions::from_mode(0o444))?)
        },
    },
    Hostile {
        what: "a link to a device without an end",
        hint: "no regular file",
        make: |path| Ok(symlink("/dev/zero", path)?),
    },
    Hostile {
        what: "a directory",
        hint: "no regular file",
        make: |path| Ok(fs::create_dir(path)?),
    },
    Hostile {
        what: "a link to itself",
        hint: "symbolic link",
        make: |path| Ok(symlink(path, path)?),
    },
    Hostile {
        what: "a link to nothing",
        hint: "no such file",
        make: |path| Ok(symlink("/nonexistent/config.toml", path)?),
    },
    Hostile {
        what: "a file that anybody may write",
        hint: "chmod go-w",
        make: |path| {
            fs::write(path, "mode = \"observe\"\n")?;
            Ok(fs::set_permissions(path, Permissions::from_mode(0o666))?)
        },
    },
];

/// P4: hostile, huge and deep configuration files. The daemon that is asked to start with one ends
/// with a word about it, within time and memory, and the policy in the kernel stays.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn hostile_configuration_files_are_refused_by_name_and_change_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let before = guard.status()?;
    guard.kill9()?;
    for Hostile { what, hint, make } in HOSTILE {
        let path = guard.file("hostile.toml");
        make(&path).with_context(|| format!("making {what}"))?;
        let begin = Instant::now();
        let refused = start_with(&guard, &path).with_context(|| what.to_owned())?;
        let took = begin.elapsed();
        println!("{what}: {took:.1?}, {} bytes of words", refused.stderr.len());
        ensure!(refused.code == Some(2), "{what}: {:?}: {}", refused.code, head(&refused));
        ensure!(refused.stderr.contains(hint), "no {hint:?} about {what}: {}", head(&refused));
        // Rules come from everywhere: too many of them are no single file's.
        if hint != "--capacity" {
            ensure!(refused.stderr.contains("hostile.toml"), "{what}: {}", head(&refused));
            ensure!(refused.stderr.contains("stays in force"), "{what}: {}", tail(&refused));
        }
        ensure!(refused.stderr.len() < 32 * 1024, "{what}: {} bytes", refused.stderr.len());
        ensure!(took < QUICK, "{what} took {took:?}");
        if path.is_dir() { fs::remove_dir(&path)? } else { fs::remove_file(&path)? }
    }
    let after = guard.status()?;
    assert_eq!(after.generation()?, before.generation()?);
    assert_eq!(after.door(SERVER_DOOR)?, before.door(SERVER_DOOR)?);
    only_the_friend_is_served(&bed)
}

/// Starts a daemon with a configuration file, in no more memory than a large file needs.
fn start_with(guard: &Guard<'_>, config: &Path) -> Result<Finished> {
    let daemon = guard.run_command();
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", &format!("ulimit -d {KIB_OF_A_LARGE_FILE}; exec \"$@\""), "sh"]);
    limited.arg(daemon.get_program()).args(daemon.get_args()).arg("--config").arg(config);
    run(&mut limited, PATIENCE)
}

fn head(finished: &Finished) -> String {
    finished.stderr.chars().take(600).collect()
}

fn tail(finished: &Finished) -> String {
    let text: Vec<_> = finished.stderr.chars().collect();
    text[text.len().saturating_sub(600)..].iter().collect()
}

/// What is uploaded as a list of rules and is none.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn hostile_uploads_change_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let before = guard.status()?.generation()?;
    let memory = resident_kib(&guard)?;
    let many = |count: usize, rule: &str| {
        format!(r#"{{"effect":"allow","rules":[{}]}}"#, vec![rule; count].join(","))
    };
    let deep = "[".repeat(1_000_000);
    let uploads = [
        ("deep lists", format!(r#"{{"effect":"allow","rules":{deep}"#)),
        ("deep tables", format!(r#"{{"effect":"allow","rules":{}"#, r#"{"a":"#.repeat(200_000))),
        ("a long number", format!(r#"{{"effect":"allow","rules":[{}]}}"#, "9".repeat(1_000_000))),
        (
            "a long prefix",
            format!(r#"{{"effect":"allow","rules":[{{"prefix":"{}"}}]}}"#, "1".repeat(1 << 20)),
        ),
        ("many wrong prefixes", many(100_000, r#"{"prefix":"nonsense"}"#)),
        ("everyone, many times", many(100_000, r#"{"prefix":"0.0.0.0/0"}"#)),
        ("half a list", r#"{"effect":"allow","rules":[{"prefix":"203.0.113.66"},"#.to_owned()),
        (
            "two lists",
            r#"{"effect":"allow","rules":[],"rules":[{"prefix":"203.0.113.66"}]}"#.into(),
        ),
    ];
    for (what, body) in uploads {
        let answer = guard.exchange("POST", "/v1/rules/replace", &body, PATIENCE);
        let answer = answer.with_context(|| format!("{what}: the daemon does not answer"))?;
        ensure!(answer.starts_with("HTTP/1.1 4"), "{what}: {}", &answer[..answer.len().min(400)]);
        ensure!(answer.len() < 256 * 1024, "{what}: an answer of {} bytes", answer.len());
    }
    assert_eq!(guard.status()?.generation()?, before);
    let grown = resident_kib(&guard)?.saturating_sub(memory);
    assert!(grown < 128 * 1024, "grown by {grown} KiB");
    assert!(!guard.done(&["allow", "list"])?.contains(&STRANGER4.to_string()));
    only_the_friend_is_served(&bed)
}

fn resident_kib(guard: &Guard<'_>) -> Result<u64> {
    let pid = guard.pid().context("a daemon")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS in KiB")
}

/// The stored rules, cut off or overwritten: never taken for an empty list.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_torn_state_file_is_refused_by_name_and_the_policy_stays() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().start(&bed.server.namespace)?;
    // Without this rule the friends' network would be let in.
    guard.done(&["allow", "add", "198.51.100.0/24"])?;
    guard.done(&["deny", "add", "198.51.100.66"])?;
    let generation = guard.status()?.generation()?;
    guard.kill9()?;
    let path = guard.state_dir().join("rules.json");
    let whole = fs::read(&path)?;
    let garbage = vec![0xa5; whole.len()];
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x80;
    let torn = [0, 1, whole.len() / 4, whole.len() / 2, whole.len() - 2].map(|end| &whole[..end]);
    for bytes in torn.into_iter().chain([&garbage[..], &[0; 4096], &flipped]) {
        fs::write(&path, bytes)?;
        let refused = guard.run_to_the_end(PATIENCE)?;
        let what = format!("{} bytes: {refused:?}", bytes.len());
        ensure!(refused.code == Some(2), "{what}");
        ensure!(refused.stderr.contains("rules.json"), "{what}");
        ensure!(refused.stderr.contains("move it away"), "no way out: {what}");
        let status = guard.status()?;
        ensure!(
            status.generation()? == generation && status.door(SERVER_DOOR)?.is_covered,
            "{what}"
        );
        ensure!(fs::read(&path)? == bytes, "the file was touched");
    }
    only_the_friend_is_served(&bed)?;
    // A temporary file that a crash left, and a whole one.
    fs::write(&path, &whole)?;
    fs::write(guard.state_dir().join("rules.json.new"), &whole[..whole.len() / 2])?;
    guard.start()?;
    assert!(guard.done(&["deny", "list"])?.contains("198.51.100.66"));
    guard.done(&["deny", "add", "198.51.100.67"])?;
    assert!(!guard.state_dir().join("rules.json.new").exists());
    only_the_friend_is_served(&bed)
}

/// A state directory that becomes read-only, before a start and under a daemon.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_read_only_state_directory_refuses_edits_and_opens_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let mut guard = guard_for_the_friend().prepare(&bed.server.namespace)?;
    let state = guard.state_dir();
    fs::create_dir_all(&state)?;
    let _mounted = Mounted::tmpfs(&state)?;
    guard.hand_over(&state)?;
    guard.start()?;
    guard.done(&["deny", "add", "198.51.100.66"])?;
    let generation = guard.status()?.generation()?;
    let _read_only = Mounted::read_only_over(&state)?;
    let edit = guard.cli(&["allow", "add", &STRANGER4.to_string()])?;
    assert_eq!(edit.code, Some(2), "{edit:?}");
    assert!(edit.stderr.contains("Read-only file system"), "{edit:?}");
    assert_eq!(guard.status()?.generation()?, generation);
    only_the_friend_is_served(&bed)?;
    guard.kill9()?;
    let refused = guard.run_to_the_end(PATIENCE)?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains(&state.display().to_string()), "{refused:?}");
    assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
    let status = guard.status()?;
    assert_eq!(status.generation()?, generation);
    assert!(status.door(SERVER_DOOR)?.is_covered);
    only_the_friend_is_served(&bed)
}

/// A file system of its own on a directory, gone with the test.
struct Mounted<'p>(&'p Path);

impl<'p> Mounted<'p> {
    fn tmpfs(path: &'p Path) -> Result<Self> {
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("size=1m,mode=0700"))?;
        Ok(Self(path))
    }

    /// The same once more, read-only, on top of itself: files that are open stay as they are, and
    /// every path leads here.
    fn read_only_over(path: &'p Path) -> Result<Self> {
        mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let mounted = Self(path);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, path, None::<&str>, flags, None::<&str>)?;
        Ok(mounted)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.0, MntFlags::MNT_DETACH) {
            println!("left behind: {}: {error}", self.0.display());
        }
    }
}

/// Two daemons with one socket between them: the second leaves nothing, and the first goes on.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_second_daemon_on_the_same_socket_or_state_is_refused_and_leaves_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let first = guard_for_the_friend().start(&bed.server.namespace)?;
    let before = first.status()?;
    let second = guard_for_the_friend().prepare(&bed.server.namespace)?;
    for (flag, taken, word) in [
        ("--socket", first.socket(), "another daemon answers"),
        ("--state-dir", first.state_dir(), "keeps its rules in"),
        ("--pin-dir", first.pin_dir().to_owned(), "another ollama-guard holds"),
    ] {
        let mut command = second.run_command();
        let refused = run(command.arg(flag).arg(&taken), PATIENCE)?;
        assert_eq!(refused.code, Some(2), "{flag}: {refused:?}");
        assert!(refused.stderr.contains(word), "{flag}: {refused:?}");
        assert!(!second.pin_dir().exists(), "{flag}: pins are left behind");
        let after = first.status()?;
        assert!(after.daemon_runs()?, "{flag}");
        assert_eq!(after.door(SERVER_DOOR)?, before.door(SERVER_DOOR)?, "{flag}");
        assert_eq!(after.generation()?, before.generation()?, "{flag}");
    }
    first.done(&["deny", "add", "198.51.100.66"])?;
    only_the_friend_is_served(&bed)
}

/// Clients of the event stream that never read: the daemon stays small, and others are served.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn event_readers_that_never_read_cost_the_daemon_nothing() -> Result<()> {
    const STALLED: usize = 6;
    let bed = Bed::new()?;
    let config = "[[service]]\nname = \"ollama\"\n[events]\nper_second = 20000\n";
    let guard = guard_for_the_friend().config(config).start(&bed.server.namespace)?;
    let stalled: Vec<_> = (0..STALLED)
        .map(|_| -> Result<UnixStream> {
            let mut stream = UnixStream::connect(guard.socket())?;
            stream.write_all(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: guard\r\n\r\n")?;
            // The head of the answer: from here on it is never read again.
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read_exact(&mut [0; 12])?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    // Each packet from a port of its own, so that nothing is folded.
    let knocks = (0..4000_u16)
        .map(|port| {
            let knock = ipv4(STRANGER4, SERVER4).carries(&tcp(20_000 + port, GUARDED));
            bed.stranger4.ethernet().carries_ip(&knock)
        })
        .collect();
    let host = &bed.stranger4.namespace;
    let lasts = Duration::from_secs(5);
    let flood = Flood::start(host, CLIENT_INTERFACE, knocks, 2_000_000, lasts)?;
    thread::sleep(Duration::from_secs(1));
    let early = resident_kib(&guard)?;
    guard.done(&["deny", "add", "198.51.100.66"])?;
    let sent = flood.finish()?;
    let late = resident_kib(&guard)?;
    println!("{sent} packets, {STALLED} stalled readers: {early} KiB, then {late} KiB");
    assert!(late < early + 32 * 1024, "{early} KiB, then {late} KiB");
    // Others read what happens now.
    let (_reader, output) = guard.follow(&["events", "--json", "--follow"], "events.json")?;
    let wire = Wire::open(host, CLIENT_INTERFACE)?;
    let knock = ipv4(STRANGER4, SERVER4).carries(&tcp(31_234, GUARDED));
    let knock = bed.stranger4.ethernet().carries_ip(&knock);
    until("another reader to read", PATIENCE, || {
        let _ = wire.send(&knock);
        fs::read_to_string(&output).is_ok_and(|text| text.contains("31234"))
    })?;
    drop(stalled);
    guard.done(&["deny", "list"]).map(drop)
}

/// Somebody with the right to open our pins writes into the ring: the reader skips what is no
/// record, says so in few words, and goes on.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn garbage_in_the_ring_is_skipped_and_said() -> Result<()> {
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = guard_for_the_friend().start(&bed.server.namespace)?;
    let ring = pins(guard.pin_dir())?.into_iter().find(|path| path.ends_with("OG_EVENTS"));
    let ring = ring.context("a ring")?;
    for size in [1, 8, 55, 57, 64, 200, 511] {
        write_garbage(&ring, size, 0xa5, 200)?;
    }
    // Of the right size, with contents that no program of ours writes.
    for byte in [0, 0x01, 0x7f, 0xff] {
        write_garbage(&ring, 56, byte, 200)?;
    }
    let wire = Wire::open(&bed.stranger4.namespace, CLIENT_INTERFACE)?;
    let knock = ipv4(STRANGER4, SERVER4).carries(&tcp(31_235, GUARDED));
    let knock = bed.stranger4.ethernet().carries_ip(&knock);
    until("an event behind the garbage", PATIENCE, || {
        let _ = wire.send(&knock);
        guard.done(&["events"]).is_ok_and(|text| text.contains("31235"))
    })?;
    let log = guard.log();
    assert!(log.contains("can't be read"), "nothing is said: {log}");
    assert!(log.lines().count() < 200, "{} lines: {log}", log.lines().count());
    guard.done(&["deny", "add", "198.51.100.66"])?;
    only_the_friend_is_served(&bed)
}

/// Clocks: a daemon in a time namespace sees other monotonic and boot-time clocks than the kernel
/// that stamps the events. Its budget is refilled, and its events happen now.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn clocks_that_are_years_off_change_neither_budget_nor_times() -> Result<()> {
    let bed = Bed::new()?;
    for offset in ["315360000", "-10"] {
        let guard = guard_for_the_friend().prepare(&bed.server.namespace)?;
        let daemon = guard.run_command();
        let mut shifted = std::process::Command::new("unshare");
        shifted.args([
            "--time",
            "--fork",
            "--kill-child",
            "--monotonic",
            offset,
            "--boottime",
            offset,
            "--",
        ]);
        shifted.arg(daemon.get_program()).args(daemon.get_args());
        let log = File::create(guard.file("shifted.log"))?;
        shifted.stdout(log.try_clone()?).stderr(log);
        let mut shifted = ollama_guard_tests::bed::start(&mut shifted)?;
        until("the shifted daemon to answer", PATIENCE, || {
            guard.ask("GET", "/v1/rules", "").is_ok()
        })
        .with_context(|| fs::read_to_string(guard.file("shifted.log")).unwrap_or_default())?;
        let wire = Wire::open(&bed.stranger4.namespace, CLIENT_INTERFACE)?;
        let events = until_some("events, again and again", PATIENCE, || {
            for port in 0..50 {
                let knock = ipv4(STRANGER4, SERVER4).carries(&tcp(20_000 + port, GUARDED));
                wire.send(&bed.stranger4.ethernet().carries_ip(&knock)).ok()?;
            }
            thread::sleep(Duration::from_millis(200));
            let text = guard.done(&["events", "--json"]).ok()?;
            (text.lines().count() > 5).then_some(text)
        })?;
        let now = run(std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H"]), PATIENCE)?;
        let last = events.lines().last().context("an event")?;
        let event: serde_json::Value = serde_json::from_str(last)?;
        let time = event["time"].as_str().context("a time")?;
        println!("shifted by {offset} s: the last event is of {time}");
        // To the hour, or the one before: this is about years.
        let hour = now.expect_success()?.trim();
        assert!(time[..13] == *hour || time[..11] == hour[..11], "{time}, and it is {hour}");
        shifted.kill()?;
    }
    Ok(())
}
