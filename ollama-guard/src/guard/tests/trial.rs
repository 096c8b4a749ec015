//! Changes on trial.

use std::time::Duration;

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

impl Bench {
    fn attempt(&mut self, prefixes: &[&str]) -> Result<EditReply, GuardError> {
        let rules: Vec<_> = prefixes.iter().map(|prefix| json!({"prefix": prefix})).collect();
        let request = json!({"effect": Allow, "rules": rules});
        let edit = Edit::Replace(serde_json::from_value(request).unwrap());
        let attempt = Attempt { time: MINUTE, what: "a list".into(), by: "ada".into() };
        let now = self.now;
        self.guard.attempt(&attempt, &now, |guard| guard.make_edit(&edit, "ada", &now))
    }

    /// The prefixes of the policy in force, and of the one that comes back.
    fn kernel(&mut self) -> (u32, Option<u32>) {
        let sink = self.guard.sink_mut();
        let before = sink.trial.as_ref().map(|(image, _)| image.prefixes.0);
        (sink.images.last().unwrap().prefixes.0, before)
    }

    fn wait(&mut self, time: Duration) {
        self.now.boot += time;
        self.now.wall += jiff::SignedDuration::try_from(time).unwrap();
    }
}

#[test]
fn what_is_confirmed_stays_and_is_written_only_then() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["192.0.2.1", "192.0.2.2"]).unwrap();
    bench.attempt(&["192.0.2.3"]).unwrap();
    assert_eq!(bench.kernel(), (1, Some(2)));
    assert_eq!(bench.prefixes(), ["192.0.2.3"]);
    assert_eq!(bench.stored(), ["192.0.2.1", "192.0.2.2"], "the machine may lose its power");
    let now = bench.now;
    assert_eq!(bench.guard.confirm(&now).unwrap().what, "a list");
    assert_eq!((bench.kernel(), bench.stored()), ((1, None), vec!["192.0.2.3".to_owned()]));
    bench.wait(2 * MINUTE);
    let now = bench.now;
    assert!(bench.guard.revert_due(&now).is_none() && !bench.guard.awaits_something());
    assert!(matches!(bench.guard.confirm(&now), Err(GuardError::NothingOnTrial)));
}

#[test]
fn what_nobody_confirms_is_taken_back_in_time() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["192.0.2.1", "192.0.2.2"]).unwrap();
    bench.attempt(&["192.0.2.3"]).unwrap();
    assert!(bench.guard.awaits_something());
    bench.wait(MINUTE - Duration::from_secs(1));
    let now = bench.now;
    assert!(bench.guard.revert_due(&now).is_none());
    bench.wait(Duration::from_secs(1));
    let now = bench.now;
    assert!(matches!(bench.guard.confirm(&now), Err(GuardError::NothingOnTrial)), "too late");
    assert!(bench.guard.revert_due(&now).unwrap().is_ok());
    assert_eq!((bench.kernel().0, bench.prefixes().len(), bench.stored().len()), (2, 2, 2));
    // And everything goes on from there.
    bench.add(Allow, &["192.0.2.9"]).unwrap();
    assert_eq!((bench.kernel(), bench.stored().len()), ((3, None), 3));
}

#[test]
fn nothing_else_changes_during_a_trial_and_nothing_is_tried_that_changes_nothing() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["192.0.2.1"]).unwrap();
    bench.attempt(&["192.0.2.1"]).unwrap();
    assert!(bench.guard.on_trial().is_none());
    bench.guard.sink_mut().refuses = true;
    assert!(bench.attempt(&["192.0.2.7"]).is_err());
    assert_eq!((bench.guard.on_trial(), bench.prefixes().len()), (None, 1));
    bench.guard.sink_mut().refuses = false;
    bench.attempt(&["192.0.2.3"]).unwrap();
    let error = bench.add(Allow, &["192.0.2.4"]).unwrap_err().to_string();
    assert!(error.starts_with("a list by ada is on trial for 60 s more"), "{error}");
    assert!(bench.attempt(&["192.0.2.4"]).is_err());
    let now = bench.now;
    let other = another(&["198.51.100.1"], Mode::Enforce);
    assert!(bench.guard.reconfigure(other, &now).is_err());
    assert!(bench.guard.revert().is_ok());
    assert_eq!(bench.prefixes(), ["192.0.2.1"]);
}

/// A rule that ends must not come back with what was before.
#[test]
fn what_ends_during_a_trial_ends_in_both_policies() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["192.0.2.1"]).unwrap();
    let guest = json!({"effect": "allow", "prefixes": ["192.0.2.2"], "for_seconds": 30});
    bench.edit(Edit::Add(serde_json::from_value(guest).unwrap())).unwrap();
    bench.attempt(&["192.0.2.3"]).unwrap();
    // It is in the list on the disk only, and is not forgotten for that.
    bench.wait(Duration::from_secs(31));
    let now = bench.now;
    let ended = bench.guard.end_due(&now);
    assert!(ended.troubles.is_empty(), "{:?}", ended.troubles);
    assert_eq!((bench.kernel(), bench.stored()), ((1, Some(1)), vec!["192.0.2.1".to_owned()]));
    assert!(bench.guard.revert().is_ok());
    assert_eq!((bench.kernel().0, bench.prefixes()), (1, vec!["192.0.2.1".to_owned()]));
}

#[test]
fn a_configuration_can_be_tried_out() {
    let mut bench = Bench::new(&[(Allow, "198.51.100.0/24")], 100);
    bench.add(Allow, &["192.0.2.1"]).unwrap();
    let attempt = Attempt { time: MINUTE, what: "reload".into(), by: "ada".into() };
    let other = another(&["203.0.113.1", "203.0.113.2"], Mode::Observe);
    let now = bench.now;
    bench.guard.attempt(&attempt, &now, |guard| guard.make_reconfiguration(other, &now)).unwrap();
    assert_eq!(bench.kernel(), (3, Some(2)));
    assert_eq!(bench.guard.mode(), Mode::Observe);
    assert!(bench.guard.revert().is_ok());
    assert_eq!((bench.kernel().0, bench.guard.mode()), (2, Mode::Enforce));
    assert_eq!(bench.prefixes(), ["198.51.100.0/24", "192.0.2.1"]);
}

#[test]
fn no_trial_lasts_for_ever() {
    let mut bench = Bench::new(&[], 100);
    for time in [Duration::ZERO, Duration::from_hours(2)] {
        let attempt = Attempt { time, what: "x".into(), by: "ada".into() };
        let now = bench.now;
        let tried = bench.guard.attempt(&attempt, &now, |_| Ok(()));
        assert!(matches!(tried, Err(GuardError::TrialTime)));
    }
}

#[test]
fn a_dry_run_says_what_would_come_and_changes_nothing() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["192.0.2.1"]).unwrap();
    let generation = bench.guard.generation();
    let replaced = |rules: serde_json::Value| {
        Edit::Replace(serde_json::from_value(json!({"effect": Allow, "rules": rules})).unwrap())
    };
    let now = bench.now;
    let other = replaced(json!([{"prefix": "192.0.2.2"}]));
    let reply = bench.guard.preview(&other, "ada", &now).unwrap();
    assert_eq!((reply.added, reply.removed), (vec!["192.0.2.2".into()], vec!["192.0.2.1".into()]));
    assert_eq!((reply.closes, reply.generation), (false, generation));
    let nobody = replaced(json!([]));
    let reply = bench.guard.preview(&nobody, "ada", &now).unwrap();
    assert!(reply.closes && reply.warnings[0].contains("the allowlist is empty"), "{reply:?}");
    assert_eq!(
        (bench.prefixes(), bench.stored()),
        (vec!["192.0.2.1".into()], vec!["192.0.2.1".into()])
    );
    // Of what is closed already there is nothing to ask.
    bench.edit(nobody.clone()).unwrap();
    assert!(!bench.guard.preview(&nobody, "ada", &now).unwrap().closes);
}
