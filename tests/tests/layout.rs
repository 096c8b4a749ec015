//! An upgrade to a guard whose maps have another layout, and back: new maps are built beside the old
//! ones, the programs are swapped in place, and the old ones go.
//!
//! The other guard is real: `cargo xtask test` builds kernel object and binary a second time with
//! the next `ABI_VERSION`, and names it in `OLLAMA_GUARD_OTHER_LAYOUT`.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::XdpMode;
use ollama_guard_common::abi::ABI_VERSION;
use ollama_guard_tests::{
    bed::{
        Bed, Foreign, Guard, GuardSetup, Objects, RunsAs, SERVER_DOOR, Standin, UnderFlood,
        XDP_PASS, guard_binary, layout_in, only_the_friend_is_served, run, start,
    },
    policy::{FRIEND4, FRIEND6, GUARDED},
};

const OTHER: &str = "OLLAMA_GUARD_OTHER_LAYOUT";
const PATIENCE: Duration = Duration::from_secs(10);
/// A rule that is added by command, which no layout of maps has anything to do with.
const ADDED: &str = "198.51.100.0/24";

/// They look at all of the kernel's lists: one after the other.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The guard of the next layout version.
fn other_binary() -> Result<PathBuf> {
    let named = std::env::var_os(OTHER);
    let path = PathBuf::from(named.with_context(|| {
        format!("{OTHER} names no guard of another layout: `cargo xtask test` builds one")
    })?);
    ensure!(path.is_file(), "{OTHER} names {}, which is no file", path.display());
    Ok(path)
}

/// Makes sure that binary and other binary really differ in what they carry.
fn layout_of(binary: &Path) -> Result<u32> {
    let mut command = std::process::Command::new(binary);
    let said = run(command.args(["--version", "--verbose"]), PATIENCE)?;
    layout_in(&said.stdout).with_context(|| format!("no layout in {said:?}"))
}

/// One of the two guards, and the name of its directory.
struct Side {
    binary: PathBuf,
    directory: String,
}

fn sides() -> Result<[Side; 2]> {
    let (own, other) = (guard_binary()?, other_binary()?);
    ensure!(layout_of(&own)? == ABI_VERSION, "the usual guard is not of this source");
    ensure!(layout_of(&other)? == ABI_VERSION + 1, "the other guard has no other layout");
    let side = |binary, version: u32| Side { binary, directory: format!("v{version}") };
    Ok([side(own, ABI_VERSION), side(other, ABI_VERSION + 1)])
}

/// The pins of this side are there, and those of the other are not.
fn pinned_by(guard: &Guard<'_>, side: &Side, other: &Side) -> Result<()> {
    let exists = |name: &str| guard.pin_dir().join(name).exists();
    ensure!(exists(&side.directory), "{} is not there", side.directory);
    ensure!(!exists(&other.directory), "{} is still there", other.directory);
    ensure!(!exists("next"), "a half-built set is still there");
    Ok(())
}

/// How the door is guarded.
#[derive(Clone, Copy, Debug)]
enum Place {
    Native,
    Generic,
    /// The XDP slot is somebody else's.
    AtTc,
}

/// P2 with everything of the maps exchanged.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_upgrade_to_another_layout_and_back_has_no_gap() -> Result<()> {
    let _turn = one_at_a_time();
    let [own, other] = sides()?;
    for (place, user) in [
        (Place::Native, RunsAs::Root),
        (Place::Generic, RunsAs::service()),
        (Place::AtTc, RunsAs::Root),
    ] {
        let what = format!("{place:?}, {user:?}");
        let bed = Bed::new()?;
        let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
        let attach = if matches!(place, Place::Native) { "native" } else { "generic" };
        let foreign = match place {
            Place::AtTc => {
                let (namespace, mode) = (&bed.server.namespace, XdpMode::Skb);
                Some(Foreign::attach(namespace, SERVER_DOOR, XDP_PASS, mode)?)
            }
            _ => None,
        };
        let before = Objects::now()?;
        let setup = GuardSetup::of(SERVER_DOOR).attach(attach).allow(FRIEND4).allow(FRIEND6);
        let mut guard = setup.runs_as(user).start(&bed.server.namespace)?;
        guard.done(&["allow", "add", ADDED])?;
        let first = guard.status()?.door(SERVER_DOOR)?;
        let outcome = UnderFlood::during(&bed, || {
            for (from, to) in [(&own, &other), (&other, &own), (&own, &other)] {
                let old = Objects::now()?.without(&before);
                if to.binary == own.binary {
                    guard.kill9()?
                } else {
                    _ = guard.stop()?
                }
                guard.use_binary(&to.binary)?;
                // The other command says what it finds, instead of reading it.
                let status = guard.cli(&["status"])?;
                ensure!(
                    status.code == Some(2) && status.stderr.contains("another version"),
                    "{status:?}"
                );
                guard.start()?;
                let door = guard.status()?.door(SERVER_DOOR)?;
                ensure!(
                    door.is_covered && door.hook == first.hook && door.link == first.link,
                    "{door:?} instead of {first:?}"
                );
                pinned_by(&guard, to, from)?;
                let rules = guard.done(&["allow", "list"])?;
                ensure!(rules.contains(ADDED), "{ADDED} is lost: {rules}");
                old.until_gone_but_links(PATIENCE)?;
            }
            Ok(())
        })
        .with_context(|| what.clone())?;
        match place {
            Place::AtTc => outcome.assert_held_at_tc(&what),
            Place::Native | Place::Generic => outcome.assert_held(&what),
        }
        only_the_friend_is_served(&bed)?;
        drop(foreign);
    }
    Ok(())
}

/// P1 and P2: every moment of such an upgrade is a moment to die, and either guard may come next.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_killed_in_an_upgrade_to_another_layout_opens_nothing() -> Result<()> {
    let _turn = one_at_a_time();
    let [own, other] = sides()?;
    let bed = Bed::new()?;
    let _standin = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let setup = GuardSetup::of(SERVER_DOOR).attach("native").allow(FRIEND4).allow(FRIEND6);
    let mut guard = setup.start(&bed.server.namespace)?;
    let link = guard.status()?.door(SERVER_DOOR)?.link;
    guard.kill9()?;
    let chance = RandomState::new();
    let outcome = UnderFlood::during(&bed, || {
        for round in 0..12_u64 {
            let next = if chance.hash_one(round) % 2 == 0 { &own } else { &other };
            guard.use_binary(&next.binary)?;
            let mut command = guard.run_command();
            let mut starting = start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
            let mut pause = chance.build_hasher();
            pause.write_u64(round + 1000);
            thread::sleep(Duration::from_millis(pause.finish() % 1500));
            starting.kill()?;
        }
        Ok(())
    })?;
    outcome.assert_held("killed between two layouts");
    for (side, gone) in [(&other, &own), (&own, &other)] {
        guard.use_binary(&side.binary)?;
        guard.start()?;
        assert_eq!(guard.status()?.door(SERVER_DOOR)?.link, link);
        pinned_by(&guard, side, gone)?;
        guard.kill9()?;
    }
    only_the_friend_is_served(&bed)
}
