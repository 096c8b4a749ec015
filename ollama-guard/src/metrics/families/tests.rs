//! The text, as a reader of it would take it apart.

use std::collections::BTreeMap;

use super::*;
use crate::{
    dataplane::{counters::BookTotals, ring::RingBooks, snapshot::RuleTotals},
    metrics::sample::{Build, Configuration, RuleCount},
    policy::Effect,
};

fn counts(enforce: &[(&str, u64)]) -> Counts {
    let enforce = enforce.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect();
    Counts { enforce, observe: BTreeMap::new() }
}

fn door(name: &str, is_covered: Option<bool>, packets: Counts) -> Door {
    Door {
        name: name.into(),
        ifindex: 7,
        is_covered,
        hook: is_covered.map(|_| Hook::Tcx),
        attach: None,
        behind: Some(5),
        program: Some(9),
        packets: Some(packets),
    }
}

fn sample(kernel: Option<Kernel>) -> Arc<Sample> {
    let at = |text: &str| text.parse().unwrap();
    Arc::new(Sample {
        build: Build {
            version: "1.2.3",
            revision: "abc",
            layout: "4".into(),
            object: "00ff".into(),
        },
        started: at("2026-01-01T00:00:00Z"),
        configuration: Configuration {
            is_accepted: false,
            read: at("2026-01-01T00:00:02.5Z"),
            since: at("2026-01-01T00:00:00Z"),
        },
        repairs: 3,
        kernel,
    })
}

fn kernel() -> Kernel {
    let book = BookTotals { dropped: 6, submitted: 3, suppressed: 2, lost: 1 };
    Kernel {
        enforcing: true,
        problems: 0,
        mode: "enforce".into(),
        generation: 12,
        prefixes: RuleTotals { v4: 2, v6: 1, capacity: 100, intact: true },
        rules: vec![RuleCount { family: Family::V4, effect: Effect::Allow, count: 4 }],
        packets: counts(&[("allowed", 9), ("denied", 6)]),
        services: vec![Service {
            name: "ollama".into(),
            mode: "enforce".into(),
            packets: counts(&[("allowed", 8), ("denied", 5)]),
        }],
        doors: vec![
            door("eth\"0\\", Some(true), counts(&[("allowed", 9), ("denied", 4)])),
            door("wg0", Some(false), Counts::default()),
            door("lo", None, Counts::default()),
            Door {
                hook: Some(Hook::Cgroup),
                ..door("inner door", Some(true), counts(&[("denied", 0)]))
            },
        ],
        elsewhere: counts(&[("allowed", 0), ("denied", 2)]),
        books: [(Mode::Enforce, book), (Mode::Observe, BookTotals::default())],
        ring: RingBooks { read: 2, unread: 1 },
    }
}

fn text(kernel: Option<Kernel>, form: Form) -> String {
    write(sample(kernel), Process::read(), form).unwrap()
}

#[test]
fn every_value_stands_under_its_name_and_labels() {
    let text = text(Some(kernel()), Form::OpenMetrics);
    for line in [
        "# TYPE ollama_guard_packets counter",
        "ollama_guard_packets_total{verdict=\"pass\",reason=\"allowed\",mode=\"enforce\"} 9",
        "ollama_guard_packets_total{verdict=\"would-drop\",reason=\"denied\",mode=\"observe\"} 0",
        "ollama_guard_interface_packets_total{interface=\"eth\\\"0\\\\\",verdict=\"drop\",\
         reason=\"denied\",mode=\"enforce\"} 4",
        "ollama_guard_interface_packets_total{interface=\"departed/other\",verdict=\"drop\",\
         reason=\"denied\",mode=\"enforce\"} 2",
        "ollama_guard_service_packets_total{service=\"ollama\",verdict=\"drop\",reason=\"denied\",\
         mode=\"enforce\"} 5",
        "ollama_guard_service_mode{service=\"ollama\",mode=\"enforce\"} 1",
        "ollama_guard_enforcing 1",
        "ollama_guard_mode{mode=\"observe\"} 0",
        "ollama_guard_policy_generation 12",
        "ollama_guard_rules{family=\"ipv4\",effect=\"allow\"} 4",
        "ollama_guard_prefixes{family=\"ipv6\"} 1",
        "ollama_guard_prefix_capacity 100",
        "ollama_guard_door_covered{interface=\"wg0\"} 0",
        "ollama_guard_door_covered{interface=\"inner door\"} 1",
        // The inner door is no interface.
        "ollama_guard_interfaces{state=\"covered\"} 1",
        "ollama_guard_interfaces{state=\"not-covered\"} 1",
        "ollama_guard_interfaces{state=\"left-alone\"} 1",
        "ollama_guard_door_info{interface=\"wg0\",ifindex=\"7\",hook=\"tcx\",attach=\"\",\
         program_id=\"9\",behind_program_id=\"5\"} 1",
        "ollama_guard_events_total{mode=\"enforce\",outcome=\"suppressed\"} 2",
        "ollama_guard_events_read_total 2",
        "ollama_guard_config_last_reload_successful 0",
        "# UNIT ollama_guard_config_last_reload_timestamp_seconds seconds",
        "ollama_guard_config_last_reload_timestamp_seconds 1767225602.5",
        "ollama_guard_repairs_total 3",
        "ollama_guard_status_readable 1",
        "process_start_time_seconds 1767225600.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("not-guarded"), "{text}");
}

/// What dashboards are made of must not vanish in one of the forms.
#[test]
fn both_forms_have_the_same_series() {
    let series = |form| -> Vec<String> {
        let text = text(Some(kernel()), form);
        let mut series: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
            .collect();
        series.sort();
        series
    };
    let series = [series(Form::OpenMetrics), series(Form::Prometheus)];
    assert_eq!(series[0], series[1]);
    let mut unique = series[0].clone();
    unique.dedup();
    assert_eq!(unique.len(), series[0].len(), "a series stands twice");
}

#[test]
fn every_family_has_help_and_a_type() {
    let text = text(Some(kernel()), Form::Prometheus);
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        for word in ["HELP", "TYPE"] {
            assert!(text.contains(&format!("# {word} {name} ")), "{word} of {name}");
        }
    }
}

#[test]
fn the_documentation_has_every_family() {
    let documented = include_str!("../../../docs/metrics.md");
    let text = text(Some(kernel()), Form::Prometheus);
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(documented.contains(&format!("`{name}`")), "docs/metrics.md lacks {name}");
    }
}

#[test]
fn a_kernel_that_cannot_be_read_enforces_nothing() {
    let text = text(None, Form::OpenMetrics);
    assert!(text.contains("ollama_guard_enforcing 0\n"));
    assert!(text.contains("ollama_guard_status_readable 0\n"));
    assert!(!text.contains("ollama_guard_packets"));
}

#[test]
fn a_client_gets_the_form_that_it_asks_for() {
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    assert_eq!(Form::accepted(Some(prometheus)), Form::OpenMetrics);
    assert_eq!(Form::accepted(Some("*/*")), Form::Prometheus);
    assert_eq!(Form::accepted(None), Form::Prometheus);
}
