//! Alerts and dashboard, as they are shipped, in the hands of a real Prometheus.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use ollama_guard_tests::{
    bed::{
        Bed, Flood, ForeignTc, GuardSetup, Place, Prometheus, SERVER_DOOR, TC_ACT_OK,
        prometheus_program, run, until,
    },
    packet::{ipv4, tcp},
    policy::{FRIEND4, GUARDED, SERVER4, STRANGER4},
};
use serde_json::Value;

use super::{PATIENCE, knock_of_all_kinds};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ollama-guard/deploy").join(name)
}

/// Every file with alerts, by the tool of their own.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn the_alerts_pass_their_tests_and_name_commands_that_there_are() -> Result<()> {
    let (rules, tests) = ("ollama-guard.rules.yml", "ollama-guard.rules.test.yml");
    let promtool = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(prometheus_program("promtool")?);
        command.args(arguments).current_dir(deploy("prometheus"));
        run(&mut command, PATIENCE)?.expect_success().map(drop)
    };
    promtool(&["check", "rules", rules])?;
    promtool(&["test", "rules", tests])?;
    promtool(&["check", "config", "--syntax-only", "scrape.yml"])?;
    let tested = fs::read_to_string(deploy("prometheus").join(tests))?;
    let written = fs::read_to_string(deploy("prometheus").join(rules))?;
    let mut names = 0;
    for name in written.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tested.contains(&format!("alertname=\"{name}\"")), "{name} has no test");
        names += 1;
    }
    let commands: Vec<_> =
        written.lines().filter_map(|line| line.trim().strip_prefix("command: ")).collect();
    assert_eq!(commands.len(), names, "each alert names a command");
    let bed = Bed::new()?;
    let guard = GuardSetup::of(SERVER_DOOR).prepare(&bed.server.namespace)?;
    let mut verbs = BTreeSet::new();
    for command in commands.iter().flat_map(|line| line.split("; ")) {
        if let Some(words) = command.strip_prefix("ollama-guard ") {
            let verb = words.split(' ').filter(|word| word.chars().all(char::is_lowercase));
            verbs.insert(verb.collect::<Vec<_>>());
        }
    }
    for verb in verbs {
        let mut words = verb.clone();
        words.push("--help");
        let mut command = guard.command(&["--help"]);
        command.args(&words);
        let help = run(&mut command, PATIENCE)?;
        assert!(help.succeeded(), "{help:?}");
    }
    Ok(())
}

/// The expressions of a dashboard, with the variables as Grafana fills them in.
fn panels(dashboard: &str) -> Result<Vec<(String, String)>> {
    let json: Value = serde_json::from_str(dashboard)?;
    let panels = json["panels"].as_array().context("no panels")?;
    let mut found = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().context("no title")?;
        let targets = panel["targets"].as_array().filter(|targets| !targets.is_empty());
        for target in targets.with_context(|| format!("{title} asks nothing"))? {
            let mut expression = target["expr"].as_str().context("no expr")?.to_owned();
            for (variable, value) in
                [("$job", "ollama-guard"), ("$instance", ".+"), ("$__rate_interval", "1m")]
            {
                expression = expression.replace(variable, value);
            }
            ensure!(!expression.contains('$'), "{title}: {expression}");
            found.push((title.to_owned(), expression));
        }
    }
    Ok(found)
}

/// The rules as they are shipped, but that nothing has to last before it fires.
fn impatient_rules() -> Result<String> {
    let text = fs::read_to_string(deploy("prometheus/ollama-guard.rules.yml"))?;
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("for: "));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_real_prometheus_gets_an_answer_for_every_panel_and_its_alerts_fire() -> Result<()> {
    let bed = Bed::new()?;
    let server = &bed.server.namespace;
    let more: Vec<_> = (0..10).map(|last| format!("\"198.51.100.{last}\"")).collect();
    let config = format!(
        "interfaces = [\"door*\"]\ncapacity = 13\n[[service]]\nallow = [\"{FRIEND4}\", {}]\n\
         deny = [\"192.0.2.66\"]\n[events]\nper_second = 1000000\n",
        more.join(", ")
    );
    let mut guard = GuardSetup::automatic().attach("native").config(&config).start(server)?;
    let prometheus = Prometheus::start(server, "127.0.0.1:9434", &impatient_rules()?)?;

    // All is well, but for a table that was made too small.
    until("the first scrape", PATIENCE, || {
        prometheus.query("up == 1").is_ok_and(|found| !found.is_empty())
    })
    .with_context(|| format!("{:?}", prometheus.target_error()))?;
    assert_eq!(prometheus.target_error()?, "");
    let full = "OllamaGuardCapacityNearlyFull";
    // Before the first scrape there was nobody to scrape.
    until("one alert alone", PATIENCE, || prometheus.firing().is_ok_and(|all| all == [full]))
        .with_context(|| format!("{:?}", prometheus.firing()))?;

    // Every panel has data, once there were packets.
    let panels = panels(&fs::read_to_string(deploy("grafana/dashboard.json"))?)?;
    let mut empty = Vec::new();
    until("every panel to have data", PATIENCE, || {
        let knocked = knock_of_all_kinds(&bed);
        let is_empty = |(_, expression): &&(String, String)| {
            prometheus.query(expression).map_or(true, |found| found.is_empty())
        };
        empty = panels.iter().filter(is_empty).cloned().collect();
        knocked.is_ok() && empty.is_empty()
    })
    .with_context(|| format!("without data: {empty:?}"))?;
    // Every rule was understood, and has been asked without an error.
    let rules = prometheus.rules()?;
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        for part in ["summary", "description", "command"] {
            assert!(rule["annotations"][part].is_string(), "{rule} has no {part}");
        }
    }
    assert!(rules.len() >= 15, "{} rules", rules.len());

    // Now the conditions themselves.
    server.ip(&["link", "add", "door9", "type", "bridge"])?;
    server.ip(&["link", "set", "door9", "up"])?;
    until("the new door", PATIENCE, || {
        guard.status().is_ok_and(|s| s.door("door9").is_ok_and(|door| door.is_covered))
    })?;
    let _foreign = ForeignTc::attach(server, "door9", TC_ACT_OK, Place::First)?;
    guard.write_config("mode = \"both\"\n")?;
    let pinned = fs::read_dir(guard.pin_dir().join("links"))?.next().context("no link")??.path();
    fs::remove_file(pinned)?;
    let stranger = ipv4(STRANGER4, SERVER4).carries(&tcp(40_000, GUARDED));
    let frames = vec![bed.stranger4.ethernet().carries_ip(&stranger)];
    let flood = |packets| {
        let host = &bed.stranger4.namespace;
        Flood::start(host, "eth0", frames.clone(), packets, PATIENCE)?.finish()
    };
    flood(60_000)?;
    for _ in 0..5 {
        knock_of_all_kinds(&bed)?;
    }
    fires(
        &prometheus,
        &[
            "OllamaGuardDoorNotCovered",
            "OllamaGuardNotEnforcing",
            "OllamaGuardConfigurationRejected",
            "OllamaGuardDrift",
            "OllamaGuardDropBurst",
            "OllamaGuardOddPackets",
            full,
        ],
    )?;
    // The daemon hangs under a flood: nothing answers, and the ring runs full.
    guard.signal(Signal::SIGSTOP)?;
    flood(100_000)?;
    fires(&prometheus, &["OllamaGuardDown"])?;
    guard.signal(Signal::SIGCONT)?;
    fires(&prometheus, &["OllamaGuardEventsLost"])?;
    Ok(())
}

/// Waits until these alerts fire, all at the same time.
fn fires(prometheus: &Prometheus<'_>, names: &[&str]) -> Result<()> {
    let mut firing = Vec::new();
    until("the alerts to fire", PATIENCE + PATIENCE / 2, || {
        firing = prometheus.firing().unwrap_or_default();
        names.iter().all(|name| firing.iter().any(|fired| fired == name))
    })
    .with_context(|| format!("of {names:?} these fire: {firing:?}"))
}
