//! Modes by command: from observing to enforcing in one, on trial or for good. What is in force is asked of the
//! door, by frames.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ollama_guard_tests::{
    bed::{self, Bed, Guard, GuardSetup, NEWCOMER4, SERVER_DOOR, passing},
    policy::{FRIEND4, GUARDED, STRANGER4},
};

/// A port of another service.
const OTHER: u16 = 8080;
/// A file is looked at every second, and read once it was the same for a second.
const SOON: Duration = Duration::from_secs(6);
const TRIAL: Duration = Duration::from_secs(4);
const AT_ONCE: Duration = Duration::from_secs(2);

fn config(mode: &str) -> String {
    format!("mode = \"{mode}\"\n[[service]]\nallow = [\"{FRIEND4}\"]\n")
}

fn guard<'bed>(bed: &'bed Bed, text: &str) -> Result<Guard<'bed>> {
    GuardSetup::of(SERVER_DOOR).attach("generic").config(text).start(&bed.server.namespace)
}

/// Whoever is asked about gets through while nothing is enforced.
const EVERYBODY: [std::net::Ipv4Addr; 3] = [FRIEND4, NEWCOMER4, STRANGER4];

#[test]
#[ignore = "needs root: cargo xtask test"]
fn enforcing_by_command_is_tried_out_and_then_stays_over_restarts() -> Result<()> {
    let bed = Bed::new()?;
    let mut guard = guard(&bed, &config("observe"))?;
    assert_eq!(passing(&bed, GUARDED)?, EVERYBODY);
    let would = guard.done(&["mode", "enforce", "--dry-run"])?;
    ensure!(would.contains("mode: observe -> enforce\na dry run: nothing has changed"), "{would}");
    assert_eq!(passing(&bed, GUARDED)?, EVERYBODY);

    let start = Instant::now();
    let said = guard.done(&["mode", "enforce", "--confirm", "4s"])?;
    ensure!(said.contains("in force ON TRIAL"), "{said}");
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    let status = guard.cli(&["status"])?;
    ensure!(status.stdout.contains("`mode enforce`, by "), "{status:?}");
    bed::until_passing(&bed, GUARDED, &EVERYBODY, TRIAL + AT_ONCE)?;
    ensure!(start.elapsed() >= TRIAL, "taken back after {:?}", start.elapsed());
    let status = guard.cli(&["status"])?;
    ensure!(
        !status.stdout.contains("REJECTED") && !status.stdout.contains("by command"),
        "{status:?}"
    );

    guard.done(&["mode", "enforce", "--confirm", "1m"])?;
    guard.done(&["confirm"])?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    let told = "ollama is in enforce mode by command of ";
    bed::until("status to say so", AT_ONCE, || {
        guard.cli(&["status"]).is_ok_and(|status| status.stdout.contains(told))
    })?;
    guard.kill9()?;
    guard.start()?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    let status = guard.cli(&["status"])?;
    ensure!(status.succeeded() && status.stdout.contains(told), "{status:?}");
    // Another list is not another mode.
    guard.write_config(&format!("mode = \"observe\"\n[[service]]\nallow = [\"{NEWCOMER4}\"]\n"))?;
    bed::until_passing(&bed, GUARDED, &[NEWCOMER4], SOON)?;
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn whoever_writes_another_mode_into_the_file_has_the_last_word() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &config("enforce"))?;
    guard.done(&["mode", "observe"])?;
    assert_eq!(passing(&bed, GUARDED)?, EVERYBODY);
    guard.write_config(&config("observe"))?;
    let is_the_files = || guard.cli(&["status"]).is_ok_and(|it| !it.stdout.contains("by command"));
    bed::until("the file to say it", SOON, is_the_files)?;
    assert_eq!(passing(&bed, GUARDED)?, EVERYBODY);
    guard.write_config(&config("enforce"))?;
    bed::until_passing(&bed, GUARDED, &[FRIEND4], SOON)?;
    Ok(())
}

/// A mode that is enforced now and not at the next start opens the port then.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_mode_that_can_t_be_kept_is_in_force_and_that_is_said() -> Result<()> {
    const TOLD: &str = "at the next start the modes are those of before";
    let bed = Bed::new()?;
    let guard = guard(&bed, &config("observe"))?;
    let file = guard.state_dir().join("modes.json");
    // In the way of the file that would take its place.
    std::fs::create_dir_all(file.join("full"))?;
    guard.done(&["mode", "enforce", "--confirm", "1m"])?;
    let said = guard.cli(&["confirm"])?;
    ensure!(!said.succeeded() && said.stderr.contains(TOLD), "{said:?}");
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    let said = guard.cli(&["mode", "enforce"])?;
    ensure!(said.succeeded() && said.stdout.contains(TOLD), "{said:?}");
    std::fs::remove_dir_all(&file)?;
    let said = guard.cli(&["mode", "enforce"])?;
    ensure!(said.succeeded() && !said.stdout.contains(TOLD), "{said:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn one_service_may_be_enforced_while_another_is_still_observed() -> Result<()> {
    let bed = Bed::new()?;
    let text = format!(
        "mode = \"observe\"\n[[service]]\nname = \"ollama\"\nports = [\"{GUARDED}/tcp\"]\n\
         allow = [\"{FRIEND4}\"]\n[[service]]\nname = \"web\"\nports = [\"{OTHER}/tcp\"]\n\
         allow = [\"{NEWCOMER4}\"]\n"
    );
    let guard = guard(&bed, &text)?;
    guard.done(&["mode", "enforce", "--service", "web"])?;
    assert_eq!(passing(&bed, GUARDED)?, EVERYBODY);
    assert_eq!(passing(&bed, OTHER)?, [NEWCOMER4]);
    let refused = guard.cli(&["mode", "enforce", "--service", "wbe"])?;
    ensure!(
        refused.stderr.contains("there is no service wbe: there is ollama, web"),
        "{refused:?}"
    );
    ensure!(refused.code == Some(2), "{refused:?}");
    Ok(())
}
