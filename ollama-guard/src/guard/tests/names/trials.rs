//! Host names and changes on trial.

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

impl Bench {
    fn try_add(&mut self, whom: &[&str]) -> Result<EditReply, GuardError> {
        let request = json!({"effect": "allow", "prefixes": whom});
        self.try_edit(Edit::Add(serde_json::from_value(request).unwrap()))
    }

    fn try_edit(&mut self, edit: Edit) -> Result<EditReply, GuardError> {
        let now = self.now;
        let attempt = Attempt { time: MINUTE, what: "a change".into(), by: "ada".into() };
        self.guard.attempt(&attempt, &now, |guard| guard.make_edit(&edit, "ada", &now))
    }

    fn preview(&self, request: serde_json::Value) -> EditReply {
        let edit = Edit::Add(serde_json::from_value(request).unwrap());
        self.guard.preview(&edit, "ada", &self.now).unwrap()
    }

    /// Addresses in the policy in force, and in the one that comes back.
    fn in_both(&mut self) -> (u32, Option<u32>) {
        let before = self.guard.sink_mut().trial.as_ref().map(|(image, _)| image.prefixes.0);
        (self.in_kernel().0, before)
    }

    fn confirm(&mut self) {
        let now = self.now;
        self.guard.confirm(&now).unwrap();
    }

    /// The names that a daemon that starts now would have, and those that it would know addresses of.
    fn on_disk(&self) -> (Vec<String>, Vec<String>) {
        let store = RuleStore::open(self.directory.path()).unwrap();
        let names = store.names().iter().map(|rule| rule.name.to_string()).collect();
        let answers = AnswerStore::open(self.directory.path()).1.unwrap();
        (names, answers.iter().map(|answer| answer.name.to_string()).collect())
    }

    fn with_answers(mut self) -> Self {
        let (store, none) = AnswerStore::open(self.directory.path());
        self.guard.know_answers(store, none.unwrap(), &self.now).unwrap();
        self
    }

    fn wanted(&self) -> Vec<String> {
        self.guard.wanted().names.iter().map(ToString::to_string).collect()
    }
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// It has no address yet, so the kernel need not know of it; but it must not stay for that.
#[test]
fn a_name_on_trial_goes_with_the_trial_and_its_addresses_too() {
    let mut bench = Bench::new(&[(Allow, "198.51.100.0/24")], 100).with_answers();
    assert_eq!(bench.try_add(&["a.example"]).unwrap().added, ["a.example"]);
    assert!(bench.guard.on_trial().is_some());
    assert_eq!((bench.in_both(), bench.wanted()), ((1, Some(1)), texts(&["a.example"])));
    bench.hear("a.example", Ok(&["192.0.2.1", "192.0.2.2"]));
    assert_eq!(bench.in_both(), (3, Some(1)));
    assert_eq!(bench.on_disk(), (vec![], vec![]), "the machine may lose its power");
    bench.guard.revert().unwrap();
    assert_eq!((bench.in_both(), bench.wanted().len()), ((1, None), 0));
    assert!(bench.guard.name_views().is_empty() && bench.derived().is_empty());
    // A late answer is nobody's.
    bench.hear("a.example", Ok(&["192.0.2.3"]));
    assert_eq!((bench.in_both(), bench.on_disk()), ((1, None), (vec![], vec![])));
}

#[test]
fn a_name_that_is_confirmed_stays_with_the_addresses_that_it_has_by_then() {
    let mut bench = Bench::new(&[], 100).with_answers();
    bench.try_add(&["a.example"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    bench.hear("a.example", Ok(&["192.0.2.2", "192.0.2.3"]));
    bench.confirm();
    assert_eq!(bench.in_both(), (2, None));
    assert_eq!(bench.on_disk(), (texts(&["a.example"]), texts(&["a.example"])));
    bench.hear("a.example", Ok(&["192.0.2.4"]));
    assert_eq!((bench.in_both(), bench.wanted().len()), ((1, None), 1));
}

#[test]
fn a_name_that_moves_during_a_trial_moves_in_both_policies() {
    let mut bench = Bench::new(&[], 100).with_answers();
    bench.add(Allow, &["a.example", "192.0.2.99"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    bench.try_add(&["b.example", "192.0.2.98"]).unwrap();
    assert_eq!(bench.in_both(), (3, Some(2)));
    bench.hear("a.example", Ok(&["192.0.2.2", "192.0.2.3"]));
    bench.hear("b.example", Ok(&["192.0.2.4"]));
    assert_eq!(bench.in_both(), (5, Some(3)));
    assert_eq!(bench.on_disk(), (texts(&["a.example"]), texts(&["a.example"])));
    bench.guard.revert().unwrap();
    assert_eq!(bench.in_both(), (3, None));
    let derived = ["192.0.2.2 name a.example", "192.0.2.3 name a.example"];
    assert_eq!(bench.derived(), derived);
    // The guard has the policy that the kernel has, and goes on from there.
    bench.hear("a.example", Ok(&["192.0.2.5"]));
    assert_eq!(bench.in_both(), (2, None));
}

/// Only what comes back has it: it is looked up all the same.
#[test]
fn a_name_that_is_removed_on_trial_is_followed_and_comes_back_as_it_is_then() {
    let mut bench = Bench::new(&[], 100).with_answers();
    bench.add(Allow, &["a.example", "c.example", "192.0.2.99"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    let remove = |whom: &str| {
        let request = json!({"effect": "allow", "prefixes": [whom]});
        Edit::Remove(serde_json::from_value(request).unwrap())
    };
    bench.try_edit(remove("a.example")).unwrap();
    assert_eq!(bench.in_both(), (1, Some(2)));
    assert_eq!(bench.wanted(), ["a.example", "c.example"]);
    let moved = bench.hear("a.example", Ok(&["192.0.2.2", "192.0.2.3"]));
    assert!(moved.trouble.is_none());
    assert_eq!(bench.in_both(), (1, Some(3)));
    bench.now.boot += MINUTE;
    let now = bench.now;
    assert!(bench.guard.revert_due(&now).unwrap().is_ok());
    assert_eq!((bench.in_both(), bench.derived().len()), ((3, None), 2));
    // One without an address, too, whose removal changes nothing in the kernel.
    bench.try_edit(remove("c.example")).unwrap();
    assert!(bench.guard.on_trial().is_some());
    bench.guard.revert().unwrap();
    assert_eq!(bench.wanted(), ["a.example", "c.example"]);
    // What is removed for good is forgotten.
    bench.try_edit(remove("a.example")).unwrap();
    bench.confirm();
    assert_eq!((bench.wanted(), bench.in_both()), (texts(&["c.example"]), (1, None)));
    assert_eq!(bench.on_disk(), (texts(&["c.example"]), vec![]));
}

#[test]
fn names_of_a_configuration_on_trial_go_with_it() {
    let mut bench = Bench::new(&[], 100).with_answers();
    let mut desired = bench.guard.desired.clone();
    desired.names = vec![name_rule("a.example")];
    let now = bench.now;
    bench.guard.reconfigure(desired.clone(), &now).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    desired.names.push(name_rule("b.example"));
    let attempt = Attempt { time: MINUTE, what: "reload".into(), by: "ada".into() };
    let tried =
        bench.guard.attempt(&attempt, &now, |guard| guard.make_reconfiguration(desired, &now));
    assert!(tried.unwrap() && bench.guard.on_trial().is_some());
    bench.hear("b.example", Ok(&["192.0.2.2"]));
    bench.hear("a.example", Ok(&["192.0.2.3", "192.0.2.4"]));
    assert_eq!(bench.in_both(), (3, Some(2)));
    bench.guard.revert().unwrap();
    assert_eq!((bench.in_both(), bench.wanted()), ((2, None), texts(&["a.example"])));
}

#[test]
fn a_name_that_ends_or_lapses_during_a_trial_does_so_in_both_policies() {
    let mut bench = Bench::new(&[], 100).with_answers();
    let guest = json!({"effect": "allow", "prefixes": ["a.example"], "for_seconds": 30});
    bench.edit(Edit::Add(serde_json::from_value(guest).unwrap())).unwrap();
    bench.add(Allow, &["b.example"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    bench.hear("b.example", Ok(&["192.0.2.2"]));
    let none = json!({"effect": "allow", "rules": [{"prefix": "192.0.2.99"}]});
    bench.try_edit(Edit::Replace(serde_json::from_value(none).unwrap())).unwrap();
    assert_eq!(bench.in_both(), (1, Some(2)));
    bench.now.boot += Duration::from_secs(31);
    let now = bench.now;
    let ended = bench.guard.end_due(&now);
    assert!(ended.troubles.is_empty() && ended.names.len() == 1, "{ended:?}");
    assert_eq!((bench.in_both(), bench.wanted()), ((1, Some(1)), texts(&["b.example"])));
    assert_eq!(bench.on_disk().0, ["b.example"]);
    let tomorrow = Moment { boot: now.boot + Duration::from_secs(24 * 3600), ..now };
    assert_eq!(bench.guard.lapse_names(&tomorrow).differences.len(), 1);
    assert_eq!(bench.in_both(), (1, Some(0)));
    bench.guard.revert().unwrap();
    assert_eq!((bench.in_both(), bench.derived().len()), ((0, None), 0));
}

#[test]
fn an_answer_that_one_policy_has_no_room_for_is_in_force_in_neither() {
    let mut bench = Bench::new(&[], 3).with_answers();
    bench.add(Allow, &["a.example", "192.0.2.91", "192.0.2.93"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    let none = json!({"effect": "allow", "rules": [{"prefix": "a.example"}]});
    bench.try_edit(Edit::Replace(serde_json::from_value(none).unwrap())).unwrap();
    assert_eq!(bench.in_both(), (1, Some(3)));
    let moved = bench.hear("a.example", Ok(&["192.0.2.1", "192.0.2.3"]));
    assert!(matches!(moved.trouble, Some(GuardError::Compile(_))), "{moved:?}");
    assert_eq!(bench.in_both(), (1, Some(3)));
    bench.guard.sink_mut().refuses = true;
    assert!(bench.hear("a.example", Ok(&["192.0.2.5"])).trouble.is_some());
    bench.guard.sink_mut().refuses = false;
    bench.guard.revert().unwrap();
    // What comes back was renewed already, and is made anew.
    assert_eq!(
        (bench.in_both(), bench.derived()),
        ((3, None), texts(&["192.0.2.1 name a.example"]))
    );
    bench.hear("a.example", Ok(&["192.0.2.5"]));
    assert_eq!((bench.in_both().0, bench.derived()), (3, texts(&["192.0.2.5 name a.example"])));
}

/// Nobody is asked for a change that is not made.
#[test]
fn a_look_before_says_what_is_known_of_a_name() {
    let mut bench = Bench::new(&[(Deny, "198.51.100.0/24")], 100);
    let reply = bench.preview(json!({"effect": "allow", "prefixes": ["a.example"]}));
    assert_eq!(reply.added, ["a.example"]);
    let said = |reply: &EditReply, what: &str| {
        assert!(reply.warnings.iter().any(|text| text.contains(what)), "{reply:?}");
    };
    said(&reply, "a.example is looked up once it is in force, and not before");
    assert!(bench.wanted().is_empty() && bench.guard.name_views().is_empty());
    bench.add(Allow, &["a.example"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.2", "192.0.2.1"]));
    let elsewhere = json!({"effect": "deny", "prefixes": ["a.example"]});
    said(&bench.preview(elsewhere.clone()), "a.example is 192.0.2.1, 192.0.2.2 at present");
    bench.hear("a.example", Ok(&[]));
    said(&bench.preview(elsewhere), "a.example has no address at present");
    let mut desired = bench.guard.desired.clone();
    desired.names = vec![name_rule("b.example")];
    let (told, closes) = bench.guard.would_take(&desired).unwrap();
    assert!(!closes && told[0].starts_with("b.example is looked up once"), "{told:?}");
}

/// Whoever is connected from an address that a name has is not shut out.
#[test]
fn the_addresses_of_names_are_not_told_as_shut_out() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["a.example"]).unwrap();
    let shut_out = |bench: &Bench| {
        let image = bench.guard.compiled.as_ref().unwrap().image();
        image.shuts_out("192.0.2.1".parse().unwrap(), Port::OLLAMA)
    };
    assert!(shut_out(&bench));
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    assert!(!shut_out(&bench));
}

/// A disk that is full when a comment is changed on trial: what was is what is, here and on the disk.
#[test]
fn what_needs_no_trial_and_can_t_be_written_is_not_made() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["a.example"]).unwrap();
    let state = bench.directory.path().to_owned();
    let away = state.with_extension("away");
    std::fs::rename(&state, &away).unwrap();
    let other = json!({"effect": "allow", "prefixes": ["a.example"], "for_seconds": 60});
    let other = || Edit::Add(serde_json::from_value(other.clone()).unwrap());
    assert!(matches!(bench.try_edit(other()), Err(GuardError::Store(_))));
    std::fs::rename(&away, &state).unwrap();
    assert!(bench.guard.name_views()[0].expires.is_none() && bench.guard.on_trial().is_none());
    bench.add(Allow, &["b.example"]).unwrap();
    assert_eq!(bench.on_disk().0, ["a.example", "b.example"], "the next change is written");
    assert_eq!(bench.try_edit(other()).unwrap().changed.len(), 1);
    assert!(bench.guard.on_trial().is_none());
    assert!(RuleStore::open(&state).unwrap().names()[1].expires.is_some());
}
