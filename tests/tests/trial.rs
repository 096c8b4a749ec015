//! Changes on trial: who shuts themselves out is let in again in time, whatever has become of the daemon. What is
//! in force is asked of the door, by frames.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ollama_guard_tests::{
    bed::{
        self, Bed, Guard, GuardSetup, NEWCOMER4, SERVER_DOOR, Standin, passes, passing,
        policy_table::tamper, until,
    },
    policy::{FRIEND4, GUARDED, SERVER4, STRANGER4},
};

/// How long a trial lasts here, and how much more its end may take.
const TRIAL: Duration = Duration::from_secs(5);
const AT_ONCE: Duration = Duration::from_secs(2);
/// In which what is touched from outside is put right.
const DRIFT: Duration = Duration::from_secs(5);
/// A file is looked at every second, and read once it was the same for a second.
const SOON: Duration = Duration::from_secs(6);

fn setup() -> GuardSetup {
    GuardSetup::of(SERVER_DOOR).attach("generic")
}

/// A guard whose list has the friend only, by command.
fn guard(bed: &Bed) -> Result<Guard<'_>> {
    let guard = setup().start(&bed.server.namespace)?;
    guard.done(&["allow", "add", &FRIEND4.to_string()])?;
    Ok(guard)
}

/// Puts the newcomer in the friend's place, on trial. Returns what is said, and when that was.
fn try_newcomer(guard: &Guard<'_>) -> Result<(String, Instant)> {
    let list = guard.file("list");
    fs::write(&list, format!("{NEWCOMER4}\n"))?;
    let list = list.to_string_lossy();
    let start = Instant::now();
    let said = guard.done(&["allow", "replace", &list, "--confirm", "5s"])?;
    Ok((said, start))
}

fn until_the_friend_is_back(bed: &Bed, start: Instant) -> Result<()> {
    bed::until_passing(bed, GUARDED, &[FRIEND4], TRIAL + AT_ONCE)?;
    let took = start.elapsed();
    ensure!(took >= TRIAL, "taken back after {took:?}");
    ensure!(took < TRIAL + AT_ONCE, "taken back after {took:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_nobody_confirms_is_taken_back_in_time_and_what_is_confirmed_stays() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard(&bed)?;
    let before = guard.status()?.generation()?;
    let (said, start) = try_newcomer(&guard)?;
    ensure!(said.contains("generation 3 is in force ON TRIAL: in "), "{said}");
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4]);
    let status = guard.cli(&["status"])?;
    ensure!(status.stdout.contains("\nON TRIAL for another "), "{status:?}");
    let refused = guard.cli(&["allow", "add", "198.51.100.9"])?;
    ensure!(refused.stderr.contains("`allow replace` by "), "{refused:?}");
    ensure!(refused.code == Some(2), "{refused:?}");
    until_the_friend_is_back(&bed, start)?;
    until("the daemon to know", AT_ONCE, || {
        guard.log().contains("was not confirmed in time: what was before is back")
    })?;
    assert_eq!(guard.status()?.generation()?, before);
    ensure!(guard.done(&["allow", "list"])?.contains(&FRIEND4.to_string()));
    let verified = guard.cli(&["verify"])?;
    ensure!(verified.succeeded(), "{verified:?}");
    let late = guard.cli(&["confirm"])?;
    ensure!(late.stderr.contains("nothing is on trial") && !late.succeeded(), "{late:?}");

    try_newcomer(&guard)?;
    let said = guard.done(&["confirm"])?;
    ensure!(said.contains("is for good: generation 4 is in force"), "{said}");
    ensure!(!guard.log().contains("put in force again"), "a trial is no drift: {}", guard.log());
    guard.done(&["allow", "add", "198.51.100.9"])?;
    std::thread::sleep(TRIAL + AT_ONCE / 2);
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4]);
    guard.kill9()?;
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4]);

    let list = guard.file("list");
    fs::write(&list, format!("{FRIEND4}\n"))?;
    guard.done(&["allow", "replace", &list.to_string_lossy(), "--confirm", "1h"])?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    guard.done(&["revert"])?;
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4]);
    let audit = fs::read_to_string(guard.state_dir().join("audit.log"))?;
    for action in ["\"reverted\"", "\"confirm\"", "\"revert\""] {
        ensure!(audit.contains(action), "{action} is not in {audit}");
    }
    ensure!(guard.cli(&["verify"])?.succeeded());
    Ok(())
}

/// Nobody but the kernel is left to look at a clock.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_that_is_killed_during_a_trial_need_not_come_back() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard(&bed)?;
    let (_, start) = try_newcomer(&guard)?;
    guard.kill9()?;
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4]);
    let status = guard.cli(&["status"])?;
    ensure!(status.stdout.contains("\nON TRIAL for another "), "{status:?}");
    until_the_friend_is_back(&bed, start)?;
    let status = guard.cli(&["status"])?;
    ensure!(!status.stdout.contains("ON TRIAL"), "{status:?}");
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    guard.done(&["allow", "add", &NEWCOMER4.to_string()])?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4, NEWCOMER4]);
    ensure!(guard.cli(&["verify"])?.succeeded());
    Ok(())
}

/// As after a reboot, the list is the one before the trial.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_daemon_that_starts_during_a_trial_has_what_was_before() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard(&bed)?;
    try_newcomer(&guard)?;
    guard.stop()?;
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4], "the filter goes on as it was");
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    guard.done(&["allow", "add", &NEWCOMER4.to_string()])?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4, NEWCOMER4]);
    Ok(())
}

fn config(allowed: impl ToString) -> String {
    format!("confirm = \"5s\"\n[[service]]\nallow = [\"{}\"]\n", allowed.to_string())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_configuration_that_nobody_confirms_is_taken_back_and_stays_away() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = setup().config(&config(FRIEND4)).start(&bed.server.namespace)?;
    guard.write_config(&config(NEWCOMER4))?;
    bed::until_passing(&bed, GUARDED, &[NEWCOMER4], SOON)?;
    bed::until_passing(&bed, GUARDED, &[FRIEND4], TRIAL + AT_ONCE)?;
    let rejected = || {
        guard.cli(&["status"]).is_ok_and(|status| {
            status.stdout.contains("CONFIGURATION REJECTED") && status.stdout.contains("on trial")
        })
    };
    until("status to say so", AT_ONCE, rejected)?;
    std::thread::sleep(SOON / 2);
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4], "the same files are not taken again");
    // Nor by a daemon that starts.
    guard.kill9()?;
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    ensure!(guard.cli(&["status"])?.stdout.contains("CONFIGURATION REJECTED"));

    let said = guard.done(&["reload", "--confirm", "1m"])?;
    ensure!(said.contains("in force ON TRIAL, as generation "), "{said}");
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4]);
    guard.done(&["confirm"])?;
    guard.kill9()?;
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4]);
    let status = guard.cli(&["status"])?;
    ensure!(status.succeeded() && !status.stdout.contains("REJECTED"), "{status:?}");
    Ok(())
}

/// A list that names a group of this host's is made anew when its networks change: of what is in force, and not of
/// the files.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn nor_does_it_come_back_with_another_network_of_the_host() -> Result<()> {
    const NETWORK: &str = "203.0.113.254/24";
    let bed = Bed::new()?;
    let lets_in = |source| passes(&bed, source).unwrap_or(false);
    let with_networks = |more: Ipv4Addr| config(format!("{more}\", \"local-networks"));
    let mut guard = setup().config(&with_networks(FRIEND4)).start(&bed.server.namespace)?;
    guard.write_config(&with_networks(NEWCOMER4))?;
    until("the trial to begin", SOON, || lets_in(NEWCOMER4))?;
    until("the trial to end", TRIAL + AT_ONCE, || !lets_in(NEWCOMER4))?;
    let is_rejected = || {
        guard.cli(&["status"]).is_ok_and(|status| status.stdout.contains("CONFIGURATION REJECTED"))
    };
    until("status to say so", AT_ONCE, is_rejected)?;
    assert!(!lets_in(STRANGER4));
    bed.server.namespace.ip(&["address", "add", NETWORK, "dev", SERVER_DOOR])?;
    until("the new network to be let in", SOON, || lets_in(STRANGER4))?;
    ensure!(!lets_in(NEWCOMER4) && is_rejected(), "{:?}", guard.cli(&["status"])?);
    bed.server.namespace.ip(&["address", "del", NETWORK, "dev", SERVER_DOOR])?;
    until("the network to be gone", SOON, || !lets_in(STRANGER4))?;
    // Also one that comes during a trial.
    guard.write_config(&with_networks(Ipv4Addr::new(198, 51, 100, 9)))?;
    until("another trial to begin", SOON, || {
        guard.cli(&["status"]).is_ok_and(|status| status.stdout.contains("ON TRIAL"))
    })?;
    bed.server.namespace.ip(&["address", "add", NETWORK, "dev", SERVER_DOOR])?;
    until("the new network after it", TRIAL + SOON, || lets_in(STRANGER4))?;
    until("status to say so", AT_ONCE, is_rejected)?;
    guard.kill9()?;
    guard.start()?;
    ensure!(lets_in(STRANGER4) && !lets_in(NEWCOMER4));
    bed.server.namespace.ip(&["address", "del", NETWORK, "dev", SERVER_DOOR])?;
    until("the network to be gone", SOON, || !lets_in(STRANGER4))?;
    let status = guard.cli(&["status"])?;
    ensure!(!lets_in(NEWCOMER4) && status.stdout.contains("CONFIGURATION REJECTED"), "{status:?}");
    Ok(())
}

/// A trial that is refused leaves what was written down of the one before.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_trial_that_is_refused_changes_nothing_about_another_one() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = setup().config(&config(FRIEND4)).start(&bed.server.namespace)?;
    guard.write_config(&config(NEWCOMER4))?;
    bed::until_passing(&bed, GUARDED, &[NEWCOMER4], SOON)?;
    let refused = guard.cli(&["reload", "--confirm", "1m"])?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("on trial"), "{refused:?}");
    ensure!(guard.log().contains("is not read again (by command): "), "{}", guard.log());
    bed::until_passing(&bed, GUARDED, &[FRIEND4], TRIAL + AT_ONCE)?;
    guard.done(&["allow", "add", &STRANGER4.to_string(), "--confirm", "1m"])?;
    let refused = guard.cli(&["reload", "--confirm", "1m"])?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("`allow add`"), "{refused:?}");
    guard.done(&["confirm"])?;
    guard.kill9()?;
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4, STRANGER4]);
    Ok(())
}

/// The kernel brings back a policy, and no link.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_choice_of_doors_is_not_tried_out_and_that_is_said() -> Result<()> {
    const TOLD: &str = "are not tried out, but in force now";
    let bed = Bed::new()?;
    let guard = setup().config(&config(FRIEND4)).start(&bed.server.namespace)?;
    guard.write_config(&format!("exclude = [\"veth9\"]\n{}", config(FRIEND4)))?;
    until("that to be said", SOON, || guard.log().contains(&format!("{TOLD}, and for good")))?;
    guard.write_config(&format!("exclude = [\"veth8\"]\n{}", config(NEWCOMER4)))?;
    bed::until_passing(&bed, GUARDED, &[NEWCOMER4], SOON)?;
    until("that to be said", SOON, || guard.log().contains(&format!("{TOLD}: they go back")))
}

/// A rule that ends does so also in what comes back.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_ends_during_a_trial_does_not_come_back() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed)?;
    guard.done(&["allow", "add", &NEWCOMER4.to_string(), "--for", "2s"])?;
    let list = guard.file("list");
    fs::write(&list, "198.51.100.9\n")?;
    guard.done(&["allow", "replace", &list.to_string_lossy(), "--confirm", "6s"])?;
    assert!(passing(&bed, GUARDED)?.is_empty());
    bed::until_passing(&bed, GUARDED, &[FRIEND4], TRIAL + 2 * AT_ONCE)?;
    ensure!(guard.cli(&["verify"])?.succeeded());
    Ok(())
}

/// Whoever may write to the maps may not make a trial last.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_trial_whose_end_is_moved_from_outside_is_taken_back() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed)?;
    let list = guard.file("list");
    fs::write(&list, format!("{NEWCOMER4}\n"))?;
    guard.done(&["allow", "replace", &list.to_string_lossy(), "--confirm", "1m"])?;
    assert_eq!(passing(&bed, GUARDED)?, [NEWCOMER4]);
    tamper(&guard, |table, _| table.trial_until = u64::MAX)?;
    bed::until_passing(&bed, GUARDED, &[FRIEND4], DRIFT)?;
    let status = guard.cli(&["status"])?;
    ensure!(!status.stdout.contains("ON TRIAL"), "{status:?}");
    ensure!(
        guard.log().contains("what is on trial with generation 3 was changed"),
        "{}",
        guard.log()
    );
    ensure!(guard.cli(&["verify"])?.succeeded());
    Ok(())
}

/// Before anything happens, and by name.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_dry_run_names_who_is_connected_and_would_be_shut_out() -> Result<()> {
    let bed = Bed::new()?;
    let _server = Standin::start_in(&bed.server.namespace, GUARDED)?;
    let guard = guard(&bed)?;
    let connect = || TcpStream::connect_timeout(&(SERVER4, GUARDED).into(), AT_ONCE);
    let talk = bed.friend.namespace.enter(connect)??;
    let list = guard.file("list");
    fs::write(&list, format!("{NEWCOMER4}\n"))?;
    let list = list.to_string_lossy();
    let would = guard.cli(&["allow", "replace", &list, "--dry-run"])?;
    let named = format!("warning: {FRIEND4} is connected to {GUARDED}/tcp at this moment");
    ensure!(would.succeeded() && would.stderr.contains(&named), "{would:?}");
    ensure!(would.stdout.contains("a dry run: nothing has changed, generation 2"), "{would:?}");
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    // Nobody is asked where there is no terminal, and what is done is told as well.
    let done = guard.cli(&["allow", "replace", &list, "--confirm", "1m"])?;
    ensure!(done.succeeded() && done.stderr.contains(&named), "{done:?}");
    guard.done(&["revert"])?;
    drop(talk);
    let would = guard.cli(&["allow", "replace", &list, "--dry-run"])?;
    ensure!(would.succeeded() && would.stderr.is_empty(), "{would:?}");
    Ok(())
}
