//! A configuration that can't be used at a start: what was in force last is in force again, from the state
//! directory where the pins are gone, as after a reboot. Who gets through is asked of the door, by frames.

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use ollama_guard_tests::{
    bed::{Bed, Guard, GuardSetup, NEWCOMER4, SERVER_DOOR, passing, until, until_passing},
    policy::{FRIEND4, GUARDED},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// A file is looked at every second, and read once it was the same for a second.
const SOON: Duration = Duration::from_secs(6);
/// Not as TOML has it, and letting somebody in all the same.
const BROKEN: &str = "[[service]]\nallow = [\"198.51.100.3\"\n";

fn config(allowed: Ipv4Addr) -> String {
    format!("interfaces = [\"{SERVER_DOOR}\"]\n[[service]]\nallow = [\"{allowed}\"]\n")
}

/// A guard at the server's door, which the file names.
fn guard<'bed>(bed: &'bed Bed, text: &str) -> Result<Guard<'bed>> {
    GuardSetup::automatic().attach("generic").config(text).start(&bed.server.namespace)
}

/// Ends the daemon, and takes what it left in the kernel away, as a reboot does.
fn reboot(guard: &mut Guard<'_>) -> Result<()> {
    guard.stop()?;
    fs::remove_dir_all(guard.pin_dir())?;
    Ok(())
}

/// It says so, and says what is in force instead.
fn is_rejected(guard: &Guard<'_>) -> Result<()> {
    let status = guard.cli(&["status"])?;
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.stdout.starts_with("ENFORCING"), "{}", status.stdout);
    let line = status.stdout.lines().find(|line| line.starts_with("CONFIGURATION REJECTED"));
    assert!(line.is_some_and(|line| line.contains("the last good one, of ")), "{}", status.stdout);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn after_a_reboot_a_broken_file_leaves_the_last_good_policy_in_force() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard(&bed, &config(FRIEND4))?;
    reboot(&mut guard)?;
    assert_eq!(passing(&bed, GUARDED)?.len(), 3, "a reboot opens everything");
    guard.write_config(BROKEN)?;
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    is_rejected(&guard)?;
    assert!(guard.log().contains("config.toml:2:"), "{}", guard.log());
    // Still broken, in another way: what is in force is the last good one still.
    guard.write_config("capacity = 0\n")?;
    until("the other mistake", SOON, || guard.log().contains("write a number from 1"))?;
    is_rejected(&guard)?;
    // Mended, it is followed as always.
    guard.write_config(&config(NEWCOMER4))?;
    until_passing(&bed, GUARDED, &[NEWCOMER4], SOON)?;
    until("status to say so", SOON, || guard.cli(&["status"]).is_ok_and(|s| s.succeeded()))?;
    // What was put in force while running is the last good one from then on.
    reboot(&mut guard)?;
    guard.write_config(BROKEN)?;
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4]);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_living_guard_is_adopted_under_the_last_good_configuration() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard(&bed, &config(FRIEND4))?;
    guard.done(&["deny", "add", "203.0.113.0/24"])?;
    guard.kill9()?;
    guard.write_config(BROKEN)?;
    guard.start()?;
    assert!(guard.log().contains("adopted, without a gap"), "{}", guard.log());
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    is_rejected(&guard)?;
    assert!(guard.done(&["deny", "list"])?.contains("203.0.113.0/24"));
    Ok(())
}

/// As it was before there was anything to keep.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn without_an_earlier_configuration_or_with_a_damaged_one_it_refuses() -> Result<()> {
    let bed = Bed::new()?;
    let setup = GuardSetup::automatic().attach("generic").config(BROKEN);
    let mut guard = setup.prepare(&bed.server.namespace)?;
    let refused = guard.run_to_the_end(PATIENCE)?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("Nothing was attached."), "{refused:?}");

    guard.write_config(&config(FRIEND4))?;
    guard.start()?;
    reboot(&mut guard)?;
    let kept = guard.state_dir().join("last-good-configuration");
    let mut bytes = fs::read(&kept)?;
    let last = bytes.last_mut().context("it is empty")?;
    *last ^= 1;
    fs::write(&kept, bytes)?;
    guard.write_config(BROKEN)?;
    let refused = guard.run_to_the_end(PATIENCE)?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("config.toml:2:"), "{refused:?}");
    assert!(refused.stderr.contains("not what was written"), "{refused:?}");
    assert_eq!(passing(&bed, GUARDED)?.len(), 3);
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_flag_with_a_mistake_is_refused_whatever_is_kept() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard(&bed, &config(FRIEND4))?;
    reboot(&mut guard)?;
    let mut command = guard.run_command();
    let refused = ollama_guard_tests::bed::run(command.args(["--allow", "192.0.2.300"]), PATIENCE)?;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    Ok(())
}

/// At boot, an interface that is named may be one that is made later.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_name_that_was_there_once_is_waited_for_and_another_is_a_slip() -> Result<()> {
    const LATE: &str = "late0";
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let appear = || -> Result<()> {
        server.ip(&["link", "add", LATE, "type", "veth", "peer", "name", "late1"])?;
        server.ip(&["link", "set", LATE, "up"]).map(drop)
    };
    appear()?;
    let both = |second: &str| {
        format!(
            "interfaces = [\"{SERVER_DOOR}\", \"{second}\"]\n[[service]]\nallow = [\"{FRIEND4}\"]\n"
        )
    };
    let mut guard = guard(&bed, &both(LATE))?;
    reboot(&mut guard)?;
    server.ip(&["link", "del", LATE])?;
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    let status = guard.cli(&["status"])?;
    assert!(
        status.code == Some(1) && status.stdout.contains("late0 is to be guarded"),
        "{status:?}"
    );
    appear()?;
    until("the late interface to be guarded", PATIENCE, || {
        guard.cli(&["status"]).is_ok_and(|status| status.succeeded())
    })?;
    reboot(&mut guard)?;
    guard.write_config(&both("slip0"))?;
    guard.start()?;
    is_rejected(&guard)?;
    assert!(guard.log().contains("there is no interface slip0"), "{}", guard.log());
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    Ok(())
}
