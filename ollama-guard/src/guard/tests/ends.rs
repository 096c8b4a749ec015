//! Rules that end.

use std::time::Duration;

use jiff::ToSpan as _;

use super::*;

impl Bench {
    fn add_for(&mut self, prefix: &str, seconds: u64) -> EditReply {
        let request = json!({"effect": "allow", "prefixes": [prefix], "for_seconds": seconds});
        self.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap()
    }

    /// So much later, by a wall clock that shows so much.
    fn later(&mut self, seconds: u64, shown: i64) {
        self.now.boot += Duration::from_secs(seconds);
        self.now.wall += shown.seconds();
    }

    fn end_due(&mut self) -> (Vec<String>, usize) {
        let Ended { rules, troubles, .. } = self.guard.end_due(&self.now);
        (rules.iter().map(|rule| rule.prefix.to_string()).collect(), troubles.len())
    }
}

fn many(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("198.51.100.{number}")).collect()
}

#[test]
fn what_ends_at_the_same_second_is_one_edit() {
    let mut bench = Bench::new(&[(Allow, "203.0.113.0/24")], 1000);
    for prefix in many(100) {
        bench.add_for(&prefix, 60);
    }
    bench.add(Allow, &["192.0.2.1"]).unwrap();
    bench.later(59, 59);
    assert_eq!(bench.end_due(), (Vec::new(), 0));
    let (swaps, generation) = (bench.swaps(), bench.guard.generation());
    bench.later(1, 1);
    assert_eq!(bench.end_due().0.len(), 100);
    assert_eq!((bench.swaps(), bench.guard.generation()), (swaps + 1, generation + 1));
    assert_eq!(bench.prefixes(), ["203.0.113.0/24", "192.0.2.1"]);
    assert_eq!(bench.stored(), ["192.0.2.1"]);
    let image = bench.guard.sink_mut().images.last().unwrap();
    assert_eq!(image.prefixes, (2, 0));
    assert!(!bench.guard.awaits_something());
}

#[test]
fn a_clock_that_is_set_back_brings_nothing_back_and_lengthens_nothing() {
    let mut bench = Bench::new(&[], 100);
    bench.add_for("192.0.2.1", 60);
    bench.later(60, -7200);
    assert_eq!(bench.end_due().0, ["192.0.2.1"]);
    bench.later(1, -7200);
    assert_eq!((bench.end_due().0.len(), bench.prefixes().len()), (0, 0));
    assert!(bench.stored().is_empty());
}

#[test]
fn the_same_prefix_again_gets_another_end_and_the_kernel_need_not_know() {
    let mut bench = Bench::new(&[], 100);
    let request = json!({"effect": "allow", "prefixes": ["192.0.2.1"], "comment": "the guest"});
    bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap();
    let swaps = bench.swaps();
    let reply = bench.add_for("192.0.2.1", 60);
    assert!(reply.changed[0].ends_with("now, and had no end"), "{reply:?}");
    let reply = bench.add_for("192.0.2.1", 120);
    assert!(reply.changed[0].contains("now, and not at"), "{reply:?}");
    assert!(reply.unchanged.is_empty() && reply.added.is_empty());
    assert_eq!(bench.add_for("192.0.2.1", 120).unchanged, ["192.0.2.1"]);
    bench.later(60, 60);
    assert!(bench.end_due().0.is_empty());
    let reply = bench.add(Allow, &["192.0.2.1"]).unwrap();
    assert!(reply.changed[0].contains("has no end any more"), "{reply:?}");
    bench.later(999, 999);
    assert!(bench.end_due().0.is_empty());
    assert_eq!(bench.swaps(), swaps);
    let rules = bench.guard.rules().rules;
    assert_eq!(rules[0].comment.as_deref(), Some("the guest"));
    assert_eq!(bench.stored(), ["192.0.2.1"]);
}

#[test]
fn what_somebody_else_says_as_well_goes_on_being_said() {
    let mut bench = Bench::new(&[], 100);
    bench.add_for("192.0.2.1", 60);
    // The configuration allows it too, for longer.
    let mut desired = another(&["192.0.2.1"], Mode::Enforce);
    desired.rules[0].expires = End::after(bench.now.wall, Duration::from_secs(120)).ok();
    bench.guard.reconfigure(desired.clone(), &bench.now).unwrap();
    let swaps = bench.swaps();
    bench.later(61, 61);
    assert_eq!(bench.end_due().0, ["192.0.2.1"]);
    assert_eq!((bench.swaps(), bench.prefixes().len()), (swaps, 1));
    bench.later(60, 60);
    assert_eq!(bench.end_due().0, ["192.0.2.1"]);
    assert!(bench.prefixes().is_empty());
    // The file still has it, and the clock is set back: it has ended all the same.
    bench.later(1, -7200);
    bench.guard.reconfigure(desired, &bench.now).unwrap();
    assert!(bench.prefixes().is_empty());
}

#[test]
fn what_has_ended_stays_ended_also_if_a_list_without_it_was_only_tried_out() {
    let mut bench = Bench::new(&[], 100);
    let mut desired = another(&["192.0.2.1", "192.0.2.2"], Mode::Enforce);
    desired.rules[0].expires = End::after(bench.now.wall, Duration::from_secs(60)).ok();
    bench.guard.reconfigure(desired.clone(), &bench.now).unwrap();
    bench.later(61, 61);
    assert_eq!(bench.end_due().0, ["192.0.2.1"]);
    let (now, other) = (bench.now, another(&["192.0.2.3"], Mode::Enforce));
    let attempt = Attempt { time: Duration::from_secs(9), what: "a list".into(), by: "ada".into() };
    bench.guard.attempt(&attempt, &now, |guard| guard.make_reconfiguration(other, &now)).unwrap();
    bench.guard.revert().unwrap();
    // The file still has it, and the clock is set back.
    bench.later(1, -7200);
    bench.guard.reconfigure(desired, &bench.now).unwrap();
    assert_eq!(bench.prefixes(), ["192.0.2.2"]);
}

#[test]
fn what_the_configuration_allows_for_a_while_can_be_allowed_for_longer_by_command() {
    let mut bench = Bench::new(&[], 100);
    let mut desired = another(&["192.0.2.1"], Mode::Enforce);
    desired.rules[0].expires = End::after(bench.now.wall, Duration::from_secs(60)).ok();
    bench.guard.reconfigure(desired, &bench.now).unwrap();
    assert_eq!(bench.add_for("192.0.2.1", 30).unchanged, ["192.0.2.1"]);
    assert_eq!(bench.add_for("192.0.2.1", 90).added, ["192.0.2.1"]);
    bench.later(60, 60);
    assert_eq!(bench.end_due().0.len(), 1);
    assert_eq!(bench.prefixes(), ["192.0.2.1"]);
}

#[test]
fn neither_a_full_disk_nor_a_kernel_that_refuses_lets_anybody_in_for_longer() {
    let mut bench = Bench::new(&[], 100);
    bench.add_for("192.0.2.1", 60);
    bench.add_for("192.0.2.2", 90);
    let file = bench.directory.path().join("rules.json");
    let aside = bench.directory.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir_all(file.join("full")).unwrap();
    bench.later(60, 60);
    assert_eq!(bench.end_due(), (vec!["192.0.2.1".to_owned()], 1), "the disk");
    assert_eq!(bench.prefixes(), ["192.0.2.2"]);
    assert_eq!(bench.guard.sink_mut().images.last().unwrap().prefixes, (1, 0));
    bench.guard.sink_mut().refuses = true;
    bench.later(30, 30);
    assert_eq!(bench.end_due(), (vec!["192.0.2.2".to_owned()], 2), "both");
    assert!(bench.prefixes().is_empty() && bench.guard.awaits_something());
    // Both are mended, and it is made up for.
    bench.guard.sink_mut().refuses = false;
    std::fs::remove_dir_all(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    bench.later(5, 5);
    assert_eq!(bench.end_due(), (Vec::new(), 0));
    assert_eq!(bench.guard.sink_mut().images.last().unwrap().prefixes, (0, 0));
    assert!(bench.stored().is_empty() && !bench.guard.has_unfinished());
}

/// Its end changes how doors are told apart, so that all is made anew.
#[test]
fn a_kernel_that_refuses_does_not_keep_a_rule_for_some_interfaces_either() {
    let mut bench = Bench::new(&[], 100);
    bench.guard.know_doors([(2, "eth1".to_owned())].into()).unwrap();
    let request = json!({
        "effect": "allow", "prefixes": ["192.0.2.1"], "for_seconds": 60, "limits": {"on": ["eth1"]}
    });
    bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap();
    assert_eq!(bench.guard.sink_mut().images.last().unwrap().prefixes, (1, 0));
    bench.guard.sink_mut().refuses = true;
    bench.later(60, 60);
    assert_eq!(bench.end_due(), (vec!["192.0.2.1".to_owned()], 1));
    bench.guard.sink_mut().refuses = false;
    bench.later(5, 5);
    assert_eq!(bench.end_due(), (Vec::new(), 0));
    assert_eq!(bench.guard.sink_mut().images.last().unwrap().prefixes, (0, 0));
    assert!(!bench.guard.has_unfinished());
}

#[test]
fn ends_that_make_no_sense_are_refused() {
    let mut bench = Bench::new(&[], 100);
    let end = (bench.now.wall + 60.seconds()).to_string();
    let past = (bench.now.wall - 60.seconds()).to_string();
    for (more, expected) in [
        (json!({"for_seconds": 0}), "at least 1s"),
        (json!({"for_seconds": u64::MAX}), "ten years"),
        (json!({"expires": past}), "has passed"),
        (json!({"expires": end, "for_seconds": 5}), "leave one out"),
    ] {
        let mut request = json!({"effect": "allow", "prefixes": ["192.0.2.1"]});
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(bench.prefixes().is_empty());
}

#[test]
fn a_list_may_have_ends_and_what_has_ended_is_left_out_of_it() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).unwrap();
    let end = (bench.now.wall + 60.seconds()).to_string();
    let past = (bench.now.wall - 60.seconds()).to_string();
    let rules = json!([
        {"prefix": "192.0.2.1", "expires": end},
        {"prefix": "192.0.2.2", "expires": past},
        {"prefix": "192.0.2.3"},
    ]);
    let request = json!({"effect": "allow", "rules": rules});
    let reply = bench.edit(Edit::Replace(serde_json::from_value(request).unwrap())).unwrap();
    assert_eq!(
        (reply.removed, reply.unchanged),
        (vec!["192.0.2.2".into()], vec!["192.0.2.3".into()])
    );
    assert!(reply.changed[0].starts_with("192.0.2.1 ends at "), "{:?}", reply.changed);
    assert!(reply.warnings[0].contains("is left out"), "{:?}", reply.warnings);
    bench.later(61, 61);
    assert_eq!(bench.end_due().0, ["192.0.2.1"]);
    assert_eq!(bench.stored(), ["192.0.2.3"]);
}

/// A guest who is let in everywhere until tonight does not stay for ever because of a rule for one interface.
#[test]
fn a_rule_for_some_interfaces_gives_no_other_end_to_the_one_for_all() {
    let mut bench = Bench::new(&[], 100);
    bench.add_for("192.0.2.1", 60);
    let request = json!({"effect": "allow", "prefixes": ["192.0.2.1"], "limits": {"on": ["eth1"]}});
    let reply = bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap();
    assert_eq!((reply.added.len(), reply.changed.len()), (1, 0));
    let rules = bench.guard.rules().rules;
    let found: Vec<_> =
        rules.iter().map(|rule| (rule.limits.is_some(), rule.expires.is_some())).collect();
    assert_eq!(found, [(false, true), (true, false)]);
    bench.later(60, 60);
    assert_eq!(bench.end_due().0, ["192.0.2.1"]);
    let rules = bench.guard.rules().rules;
    assert!(rules.len() == 1 && rules[0].limits.is_some(), "{rules:?}");
}
