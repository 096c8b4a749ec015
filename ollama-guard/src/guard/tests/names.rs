//! Host names in the place of prefixes.

mod limits;
mod trials;

use std::time::Duration;

use jiff::ToSpan as _;

use super::*;
use crate::{config::AnswerStore, names::Found, policy::NameRule};

impl Bench {
    fn hear(&mut self, name: &str, outcome: Result<&[&str], &str>) -> Moved {
        let outcome = outcome
            .map(|texts| texts.iter().map(|text| text.parse().unwrap()).collect())
            .map_err(str::to_owned);
        let at = self.now.wall;
        let found = Found { name: name.parse().unwrap(), at, next: at, outcome };
        self.guard.hear(found, &self.now)
    }

    fn in_kernel(&mut self) -> (u32, u32) {
        self.guard.sink_mut().images.last().unwrap().prefixes
    }

    fn derived(&self) -> Vec<String> {
        let comment = |rule: &Rule| rule.comment.as_deref().unwrap_or_default().to_owned();
        self.guard.derived.iter().map(|rule| format!("{} {}", rule.prefix, comment(rule))).collect()
    }
}

fn name_rule(text: &str) -> NameRule {
    let (name, origin) = (text.parse().unwrap(), Origin::Flag.into());
    NameRule { name, effect: Allow, limits: None, comment: None, origin, expires: None }
}

#[test]
fn an_answer_that_changes_something_is_one_edit_and_one_that_does_not_is_none() {
    let mut bench = Bench::new(&[], 100);
    let reply = bench.add(Allow, &["home.example.org"]).unwrap();
    assert_eq!(reply.added, ["home.example.org"]);
    assert!(reply.warnings[0].contains("decides from now on who is let in"), "{reply:?}");
    let swaps = bench.swaps();
    bench.hear("home.example.org", Ok(&["192.0.2.1", "2001:db8::1"]));
    assert_eq!((bench.swaps(), bench.in_kernel()), (swaps + 1, (1, 1)));
    bench.hear("home.example.org", Ok(&["2001:db8::1", "192.0.2.1"]));
    assert_eq!(bench.swaps(), swaps + 1);
    bench.hear("home.example.org", Ok(&["192.0.2.2", "192.0.2.3"]));
    assert_eq!((bench.swaps(), bench.in_kernel()), (swaps + 2, (2, 0)));
    assert_eq!(bench.derived()[0], "192.0.2.2 name home.example.org");
    // No answer, no change.
    let moved = bench.hear("home.example.org", Err("timed out"));
    assert!(moved.differences.is_empty() && bench.swaps() == swaps + 2);
    let view = &bench.guard.name_views()[0];
    assert_eq!((view.error.as_deref(), view.addresses.len()), (Some("timed out"), 2));
    // Its addresses go with it.
    bench.remove(Allow, &["home.example.org"]).unwrap();
    assert_eq!((bench.in_kernel(), bench.derived().len()), ((0, 0), 0));
    assert!(bench.hear("home.example.org", Ok(&["192.0.2.9"])).differences.is_empty());
}

#[test]
fn addresses_that_somebody_else_allows_stay_when_the_name_moves() {
    let mut bench = Bench::new(&[(Allow, "192.0.2.1")], 100);
    bench.add(Allow, &["a.example", "b.example", "192.0.2.2"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]));
    bench.hear("b.example", Ok(&["192.0.2.3"]));
    assert_eq!(bench.in_kernel(), (3, 0));
    bench.hear("a.example", Ok(&[]));
    assert_eq!(bench.in_kernel(), (3, 0), "file, command and the other name");
    bench.remove(Allow, &["192.0.2.2"]).unwrap();
    assert_eq!(bench.in_kernel(), (2, 0));
    bench.hear("a.example", Ok(&["192.0.2.2"]));
    bench.remove(Allow, &["b.example"]).unwrap();
    assert_eq!(bench.in_kernel(), (2, 0));
    assert!(bench.remove(Allow, &["192.0.2.2"]).is_err(), "it is the name's");
}

#[test]
fn a_name_is_kept_has_an_end_and_is_replaced_like_a_prefix() {
    let mut bench = Bench::new(&[], 100);
    let request = json!({"effect": "allow", "prefixes": ["host:printer"], "for_seconds": 60});
    bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap();
    bench.hear("printer", Ok(&["192.0.2.1"]));
    let store = RuleStore::open(bench.directory.path()).unwrap();
    assert_eq!(store.names()[0].name.written(), "host:printer");
    bench.now.boot += Duration::from_secs(60);
    bench.now.wall += 60.seconds();
    let ended = bench.guard.end_due(&bench.now);
    assert_eq!((ended.rules.len(), ended.names.len()), (0, 1));
    assert_eq!(bench.in_kernel(), (0, 0));
    assert!(RuleStore::open(bench.directory.path()).unwrap().names().is_empty());
    bench.add(Allow, &["a.example", "192.0.2.7"]).unwrap();
    let reply = bench.replace(Allow, &["b.example", "192.0.2.7", "b.example"]).unwrap();
    assert_eq!((reply.added, reply.removed), (vec!["b.example".into()], vec!["a.example".into()]));
    assert_eq!(reply.unchanged, ["192.0.2.7"]);
    let again = bench.replace(Allow, &["b.example", "192.0.2.7"]).unwrap();
    assert_eq!(again.unchanged.len(), 2);
}

#[test]
fn names_of_the_configuration_are_followed_and_not_removed_by_command() {
    let mut bench = Bench::new(&[], 100);
    let mut desired = another(&[], Mode::Enforce);
    desired.names = vec![name_rule("a.example")];
    bench.guard.reconfigure(desired.clone(), &bench.now).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    assert_eq!(bench.in_kernel(), (1, 0));
    assert_eq!(bench.add(Allow, &["a.example"]).unwrap().unchanged, ["a.example"]);
    assert!(matches!(bench.remove(Allow, &["a.example"]), Err(GuardError::Configured { .. })));
    // The same configuration again keeps what is known; without the name it is gone.
    assert!(!bench.guard.reconfigure(desired, &bench.now).unwrap());
    assert!(bench.guard.reconfigure(another(&[], Mode::Enforce), &bench.now).unwrap());
    assert_eq!(bench.in_kernel(), (0, 0));
    assert!(matches!(bench.remove(Allow, &["a.example"]), Err(GuardError::NoSuchRule { .. })));
}

#[test]
fn what_does_not_fit_or_is_refused_leaves_the_old_addresses() {
    let mut bench = Bench::new(&[], 2);
    bench.add(Allow, &["a.example"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    let moved = bench.hear("a.example", Ok(&["192.0.2.2", "192.0.2.4", "192.0.2.6"]));
    assert!(matches!(moved.trouble, Some(GuardError::Compile(_))));
    bench.guard.sink_mut().refuses = true;
    assert!(bench.hear("a.example", Ok(&["192.0.2.9"])).trouble.is_some());
    bench.guard.sink_mut().refuses = false;
    assert_eq!(bench.derived(), ["192.0.2.1 name a.example"]);
    assert!(bench.guard.name_views()[0].error.is_some());
    bench.hear("a.example", Ok(&["192.0.2.9"]));
    assert_eq!(bench.derived(), ["192.0.2.9 name a.example"]);
}

#[test]
fn the_next_start_has_the_last_addresses_for_what_is_left_of_the_day() {
    let mut bench = Bench::new(&[], 100);
    let (store, none) = AnswerStore::open(bench.directory.path());
    bench.guard.know_answers(store, none.unwrap(), &bench.now).unwrap();
    bench.guard.apply().unwrap();
    bench.add(Allow, &["a.example"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    let (store, last) = AnswerStore::open(bench.directory.path());
    let last = last.unwrap();
    assert_eq!(last.len(), 1);
    let stored = RuleStore::open(bench.directory.path()).unwrap();
    let mut guard = Guard::new(Sink::default(), another(&[], Mode::Enforce), stored).unwrap();
    guard.know_answers(store, last.clone(), &bench.now).unwrap();
    guard.apply().unwrap();
    assert_eq!(guard.sink_mut().images[0].prefixes, (1, 0));
    bench.now.boot += Duration::from_secs(24 * 3600);
    assert_eq!(guard.lapse_names(&bench.now).differences.len(), 1);
    assert_eq!(guard.sink_mut().images[1].prefixes, (0, 0));
    // Where they do not fit any more, the rules are put in force without them.
    let stored = RuleStore::open(bench.directory.path()).unwrap();
    let desired = Desired { capacity: 1, ..another(&["198.51.100.0/24"], Mode::Enforce) };
    let mut guard = Guard::new(Sink::default(), desired, stored).unwrap();
    let (store, _) = AnswerStore::open(bench.directory.path());
    bench.now.boot -= Duration::from_secs(24 * 3600);
    assert!(guard.know_answers(store, last, &bench.now).is_err());
    guard.apply().unwrap();
    assert_eq!(guard.sink_mut().images[0].prefixes, (1, 0));
    assert!(guard.name_views()[0].addresses.is_empty());
}

#[test]
fn more_names_than_are_looked_up_are_refused() {
    let mut bench = Bench::new(&[], 1000);
    let names: Vec<_> = (0..257).map(|number| format!("a{number}.example")).collect();
    let texts: Vec<_> = names.iter().map(String::as_str).collect();
    assert!(matches!(bench.add(Allow, &texts), Err(GuardError::TooManyNames { count: 257 })));
    assert!(matches!(bench.replace(Allow, &texts), Err(GuardError::TooManyNames { .. })));
    bench.add(Allow, &texts[1..]).unwrap();
    bench.add(Deny, &texts[1..2]).unwrap();
    assert!(bench.add(Allow, &texts[..1]).is_err());
}
