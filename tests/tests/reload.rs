//! Another configuration for a daemon that runs: by command, by SIGHUP, and when its file changes. What
//! is in force is asked of the door, by frames.

use std::{fs, net::Ipv4Addr, os::unix::fs::symlink, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use ollama_guard_tests::{
    bed::{self, Bed, Guard, GuardSetup, NEWCOMER4 as NEW4, SERVER_DOOR, passing, until},
    policy::{FRIEND4, GUARDED, STRANGER4},
};

/// A file is looked at every second, and read once it was the same for a second.
const SOON: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(10);
/// A port that nobody guards at first.
const OTHER: u16 = 8080;

/// A configuration that lets these in.
fn config(allowed: &[Ipv4Addr]) -> String {
    let allowed: Vec<_> = allowed.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[[service]]\nallow = [{}]\n", allowed.join(", "))
}

/// A guard with this configuration at the server's door.
fn guard<'bed>(bed: &'bed Bed, text: &str) -> Result<Guard<'bed>> {
    GuardSetup::of(SERVER_DOOR).attach("generic").config(text).start(&bed.server.namespace)
}

fn until_passing(bed: &Bed, port: u16, expected: &[Ipv4Addr]) -> Result<()> {
    bed::until_passing(bed, port, expected, SOON)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_file_that_changes_is_put_in_force_and_the_log_says_what_came_and_went() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &config(&[FRIEND4]))?;
    guard.done(&["allow", "add", "192.0.2.77"])?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    // Written in place.
    guard.write_config(&config(&[NEW4]))?;
    until_passing(&bed, GUARDED, &[NEW4])?;
    // It is told of behind what it does.
    for line in ["+ allow 198.51.100.3", &format!("- allow {FRIEND4}"), "its files have changed"] {
        until(line, SOON, || guard.log().contains(line)).with_context(|| guard.log())?;
    }
    assert!(guard.done(&["allow", "list"])?.contains("192.0.2.77"));
    // Replaced by another file, as editors do.
    let other = guard.config_file().with_extension("new");
    fs::copy(guard.config_file(), &other)?;
    fs::write(&other, config(&[FRIEND4, NEW4]))?;
    guard.hand_over(&other)?;
    fs::rename(&other, guard.config_file())?;
    until_passing(&bed, GUARDED, &[FRIEND4, NEW4])?;
    assert!(guard.cli(&["status"])?.succeeded());
    Ok(())
}

/// As a ConfigMap that is mounted in Kubernetes: the file is a link to `..data/`, which is a link.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_link_that_leads_elsewhere_is_a_change() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &config(&[FRIEND4]))?;
    let directory = guard.config_file().parent().context("a directory")?.to_owned();
    for (version, allowed) in [("..1", FRIEND4), ("..2", NEW4)] {
        let version = directory.join(version);
        fs::create_dir(&version)?;
        fs::write(version.join("config.toml"), config(&[allowed]))?;
        guard.hand_over(&version)?;
        guard.hand_over(&version.join("config.toml"))?;
    }
    symlink("..1", directory.join("..data"))?;
    symlink("..data/config.toml", directory.join("link"))?;
    fs::rename(directory.join("link"), guard.config_file())?;
    until("the link to be read", SOON, || guard.log().contains("it says what it said"))?;
    symlink("..2", directory.join("..new"))?;
    fs::rename(directory.join("..new"), directory.join("..data"))?;
    until_passing(&bed, GUARDED, &[NEW4])
}

/// P4, for a daemon that runs.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_broken_file_changes_nothing_and_is_told_until_it_is_mended() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &config(&[FRIEND4]))?;
    let generation = guard.status()?.generation()?;
    for broken in [
        "[[service]]\nallow = [\"198.51.100.3\", \"0.0.0.0/0\"]\n",
        "[[service]]\nallow = [\"198.51.100.3\"\n",
        "interfaces = [\"nosuch9\"]\n[[service]]\nallow = [\"198.51.100.3\"]\n",
    ] {
        guard.write_config(broken)?;
        until("the rejection", SOON, || {
            guard.cli(&["status"]).is_ok_and(|status| status.code == Some(1))
        })?;
        let status = guard.cli(&["status"])?;
        assert!(status.stdout.contains("CONFIGURATION REJECTED"), "{}", status.stdout);
        // It still filters, and what it filters is what it filtered.
        assert!(status.stdout.starts_with("ENFORCING"), "{}", status.stdout);
        assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
        let refused = guard.cli(&["reload"])?;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert_eq!(guard.status()?.generation()?, generation);
        guard.write_config(&config(&[FRIEND4]))?;
        until("the mended file", SOON, || guard.cli(&["status"]).is_ok_and(|s| s.succeeded()))?;
    }
    let log = guard.log();
    assert!(log.contains("config.toml:2:26: "), "{log}");
    assert!(log.contains("nosuch9"), "{log}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn commands_and_sighup_read_it_at_once_and_a_dry_run_changes_nothing() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, &config(&[FRIEND4]))?;
    let same = guard.cli(&["diff"])?;
    assert_eq!(same.code, Some(0), "{same:?}");
    let text = format!("{}[events]\nper_second = 7\n", config(&[NEW4]));
    let file = guard.config_file();
    fs::write(&file, format!("capacity = 70000\n{text}"))?;
    let differs = guard.cli(&["diff"])?;
    assert_eq!(differs.code, Some(1), "{differs:?}");
    for line in ["+ allow 198.51.100.3", "- allow 192", "events per second: 1000 -> 7", "restart"] {
        assert!(differs.stdout.contains(line), "{line}: {}", differs.stdout);
    }
    let reloaded = guard.done(&["reload"])?;
    assert!(reloaded.contains("+ allow 198.51.100.3"), "{reloaded}");
    assert_eq!(passing(&bed, GUARDED)?, [NEW4]);
    let again = guard.done(&["reload"])?;
    assert!(again.contains("takes a restart") && again.contains("nothing has changed"), "{again}");

    fs::write(&file, config(&[FRIEND4]))?;
    kill(guard.pid().context("it runs")?, Signal::SIGHUP)?;
    until("SIGHUP", PATIENCE, || guard.log().contains("(SIGHUP)"))?;
    assert_eq!(passing(&bed, GUARDED)?, [FRIEND4]);
    let audit = fs::read_to_string(guard.state_dir().join("audit.log"))?;
    assert!(audit.contains("\"reload\"") && audit.contains("SIGHUP"), "{audit}");
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn mode_ports_and_interfaces_are_followed() -> Result<()> {
    let bed = Bed::new()?;
    let guard = GuardSetup::of(SERVER_DOOR)
        .attach("generic")
        .config(&config(&[FRIEND4]))
        .start(&bed.server.namespace)?;
    let reload = |text: &str| -> Result<String> {
        fs::write(guard.config_file(), text)?;
        guard.done(&["reload"])
    };
    assert_eq!(passing(&bed, OTHER)?, [FRIEND4, NEW4, STRANGER4]);
    let more = "[[service]]\nports = [\"11434\", \"8080\"]\nallow = [\"198.51.100.3\"]\n";
    reload(more)?;
    assert_eq!(passing(&bed, OTHER)?, [NEW4]);
    reload(&format!("mode = \"observe\"\n{more}"))?;
    assert_eq!(passing(&bed, OTHER)?, [FRIEND4, NEW4, STRANGER4]);
    reload(&format!("exclude = [\"{SERVER_DOOR}\"]\n{more}"))?;
    until("the door to be let go", PATIENCE, || {
        guard.status().is_ok_and(|s| s.door(SERVER_DOOR).is_ok_and(|door| !door.is_covered))
    })?;
    assert_eq!(passing(&bed, OTHER)?, [FRIEND4, NEW4, STRANGER4]);
    reload(more)?;
    until_passing(&bed, OTHER, &[NEW4])
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_built_in_group_follows_the_networks_of_the_host() -> Result<()> {
    let bed = Bed::new()?;
    let guard = guard(&bed, "[[service]]\nallow = [\"local-networks\"]\n")?;
    assert!(!passing(&bed, GUARDED)?.contains(&NEW4));
    let net = "198.51.100.254/24";
    bed.server.namespace.ip(&["address", "add", net, "dev", SERVER_DOOR])?;
    until("the new network", SOON, || {
        passing(&bed, GUARDED).is_ok_and(|found| found.contains(&NEW4))
    })?;
    let groups = guard.cli(&["groups"])?;
    assert!(groups.stdout.contains("198.51.100.0/24"), "{groups:?}");
    let list = guard.done(&["allow", "list"])?;
    assert!(list.contains("group local-networks: door0"), "{list}");
    assert!(!passing(&bed, GUARDED)?.contains(&STRANGER4));
    // With a broken file it is what is in force that follows.
    guard.write_config("mod = 1\n")?;
    until("the file to be rejected", SOON, || {
        guard.cli(&["status"]).is_ok_and(|status| status.stdout.contains("CONFIGURATION REJECTED"))
    })?;
    bed.server.namespace.ip(&["address", "del", net, "dev", SERVER_DOOR])?;
    until("the network to be gone", SOON, || {
        passing(&bed, GUARDED).is_ok_and(|found| !found.contains(&NEW4))
    })
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_file_is_checked_without_a_daemon() -> Result<()> {
    let bed = Bed::new()?;
    let guard = GuardSetup::of(SERVER_DOOR).prepare(&bed.server.namespace)?;
    let file = guard.file("new.toml");
    let path = file.to_string_lossy().into_owned();
    fs::write(&file, config(&[FRIEND4]))?;
    let good = guard.cli(&["check", &path])?;
    assert!(good.succeeded() && good.stdout.contains("1 allow rules"), "{good:?}");
    fs::write(&file, "mod = \"enforce\"\n[[service]]\nallow = [\"1.2.3\"]\n")?;
    let bad = guard.cli(&["check", &path])?;
    assert_eq!(bad.code, Some(1), "{bad:?}");
    for told in ["new.toml:1:1: ", "write `mode`", "new.toml:3:10: "] {
        assert!(bad.stdout.contains(told), "{told}: {}", bad.stdout);
    }
    fs::write(&file, format!("capacity = 1\n{}", config(&[FRIEND4, NEW4])))?;
    let large = guard.cli(&["check", &path])?;
    assert_eq!(large.code, Some(1), "{large:?}");
    Ok(())
}
