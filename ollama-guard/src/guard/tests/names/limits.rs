//! Names that are for a service, or for what comes in through some interfaces.

use super::*;
use crate::{control::protocol::NameView, policy::Limits};

impl Bench {
    /// A second service beside the first, and two doors.
    fn with_two_services(mut self) -> Self {
        let mut desired = another(&[], Mode::Enforce);
        let (name, ports) = ("web".into(), ["8080/tcp".parse().unwrap()].into());
        desired.services.push(Service { name, mode: Mode::Enforce, ports });
        self.guard.reconfigure(desired, &self.now).unwrap();
        let doors = BTreeMap::from([(2, "eth0".to_owned()), (3, "wg0".to_owned())]);
        assert!(!self.guard.know_doors(doors).unwrap(), "nobody asks");
        self
    }

    fn add_limited(&mut self, prefix: &str, limits: serde_json::Value) -> EditReply {
        let request = json!({"effect": "allow", "prefixes": [prefix], "limits": limits});
        self.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap()
    }

    fn remove_limited(
        &mut self,
        prefix: &str,
        limits: serde_json::Value,
    ) -> Result<EditReply, GuardError> {
        let request = json!({"effect": "allow", "prefixes": [prefix], "limits": limits});
        self.edit(Edit::Remove(serde_json::from_value(request).unwrap()))
    }

    fn replace_limited(
        &mut self,
        rules: serde_json::Value,
        limits: serde_json::Value,
    ) -> EditReply {
        let request = json!({"effect": "allow", "rules": rules, "limits": limits});
        self.edit(Edit::Replace(serde_json::from_value(request).unwrap())).unwrap()
    }

    /// Which services a source reaches, at eth0 and at wg0, in the policy that was put in force last.
    fn reach(&mut self, source: &str) -> [String; 2] {
        let image = self.guard.sink_mut().images.last().unwrap().clone();
        let found = image.rules.find(source.parse().unwrap());
        let reach = found.map_or(0, |set| set.reach);
        [2, 3].map(|door| {
            let shift = image.doors.get(&door).copied().unwrap_or(0);
            let reached =
                image.services.iter().filter(|(number, _)| reach >> shift >> **number & 1 == 1);
            reached.map(|(_, service)| service.name.clone()).collect::<Vec<_>>().join(" ")
        })
    }

    /// The names, each with where it holds.
    fn names(&self) -> Vec<String> {
        let said = |view: NameView| {
            let limits = view.limits.map_or_else(String::new, |limits| format!(" {limits}"));
            format!("{}{limits}", view.name)
        };
        self.guard.name_views().into_iter().map(said).collect()
    }
}

#[test]
fn the_addresses_of_a_name_hold_where_the_rule_about_it_does() {
    let mut bench = Bench::new(&[], 100).with_two_services();
    bench.add_limited("a.example", json!({"service": "web"}));
    bench.add_limited("b.example", json!({"service": "ollama", "on": ["wg*"]}));
    bench.add_limited("b.example", json!({"service": "web", "on": ["eth0"]}));
    let swaps = bench.swaps();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    bench.hear("b.example", Ok(&["192.0.2.2"]));
    assert_eq!(bench.swaps(), swaps + 2, "one edit for each answer");
    assert_eq!(bench.reach("192.0.2.1"), ["web", "web"]);
    assert_eq!(bench.reach("192.0.2.2"), ["web", "ollama"]);
    let rules = bench.guard.rules().rules;
    let shown: Vec<_> =
        rules.iter().map(|rule| rule.limits.as_ref().unwrap().to_string()).collect();
    assert_eq!(shown, ["for web", "for ollama, on wg*", "for web, on eth0"]);
    assert_eq!(bench.names()[1..], ["b.example for ollama, on wg*", "b.example for web, on eth0"]);
    // Both move, and whoever has the address of both reaches what either allows.
    bench.hear("b.example", Ok(&["192.0.2.1"]));
    assert_eq!(bench.reach("192.0.2.2"), ["", ""]);
    assert_eq!(bench.reach("192.0.2.1"), ["web", "ollama web"]);
    bench.hear("a.example", Ok(&[]));
    assert_eq!(bench.reach("192.0.2.1"), ["web", "ollama"]);
}

#[test]
fn doors_are_told_apart_by_names_before_they_have_an_address() {
    let mut bench = Bench::new(&[], 100).with_two_services();
    let swaps = bench.swaps();
    bench.add_limited("a.example", json!({"on": ["wg0"]}));
    assert_eq!(bench.swaps(), swaps + 1, "as `verify` expects by the rules that there are");
    assert_eq!(bench.guard.sink_mut().images.last().unwrap().doors.len(), 2);
    let doors = BTreeMap::from([(2, "eth0".to_owned()), (3, "wg1".to_owned())]);
    assert!(bench.guard.know_doors(doors).unwrap());
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    assert_eq!(bench.reach("192.0.2.1"), ["", ""], "there is no such door");
    let doors = BTreeMap::from([(2, "eth0".to_owned()), (3, "wg0".to_owned())]);
    bench.guard.know_doors(doors).unwrap();
    assert_eq!(bench.reach("192.0.2.1"), ["", "ollama web"]);
    // With the rule the reason goes to tell them apart.
    bench.remove(Allow, &["a.example"]).unwrap();
    assert!(bench.guard.sink_mut().images.last().unwrap().doors.is_empty());
    let request = json!({"effect": "allow", "prefixes": ["a.example"], "for_seconds": 60,
                         "limits": {"on": ["wg0"]}});
    bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    bench.now.boot += Duration::from_secs(60);
    bench.now.wall += 60.seconds();
    assert_eq!(bench.guard.end_due(&bench.now).names.len(), 1);
    assert!(bench.guard.sink_mut().images.last().unwrap().doors.is_empty());
    assert_eq!(bench.reach("192.0.2.1"), ["", ""]);
    // The same by the configuration.
    let mut desired = bench.guard.desired.clone();
    let limits = Limits::new(None, vec!["wg0".parse().unwrap()]);
    desired.names = vec![NameRule { limits, ..name_rule("c.example") }];
    assert!(bench.guard.reconfigure(desired, &bench.now).unwrap());
    assert_eq!(bench.guard.sink_mut().images.last().unwrap().doors.len(), 2);
}

#[test]
fn the_same_name_stands_once_for_each_of_its_limits() {
    let mut bench = Bench::new(&[], 100).with_two_services();
    let web = || json!({"service": "web"});
    assert_eq!(bench.add_limited("a.example", web()).added, ["a.example"]);
    assert_eq!(bench.add_limited("a.example", web()).unchanged, ["a.example"]);
    assert_eq!(bench.add_limited("a.example", json!({"on": ["wg0"]})).added, ["a.example"]);
    assert_eq!(bench.add(Allow, &["a.example"]).unwrap().added, ["a.example"]);
    let ollama = json!({"service": "ollama"});
    // Only of the configuration a rule that holds everywhere is reason enough to add nothing.
    assert_eq!(bench.add_limited("a.example", ollama.clone()).added, ["a.example"]);
    assert_eq!(bench.guard.wanted().names.len(), 1, "it is looked up once");
    bench.remove_limited("a.example", ollama.clone()).unwrap();
    assert!(matches!(
        bench.remove_limited("a.example", ollama),
        Err(GuardError::NoSuchRule { .. })
    ));
    let reply = bench.remove_limited("a.example", web()).unwrap();
    assert!(reply.warnings[0].contains("a.example still stands at added by ada"), "{reply:?}");
    assert_eq!(bench.names(), ["a.example on wg0", "a.example"]);
    let stored = RuleStore::open(bench.directory.path()).unwrap();
    assert_eq!(stored.names().len(), 2);
    // Without limits all of them are meant, as with prefixes.
    bench.remove(Allow, &["a.example"]).unwrap();
    assert!(bench.names().is_empty());
    assert!(matches!(
        bench.edit(Edit::Add(
            serde_json::from_value(json!({"effect": "allow", "prefixes": ["a.example"],
                                          "limits": {"service": "wep"}}))
            .unwrap()
        )),
        Err(GuardError::NoSuchService { .. })
    ));
}

#[test]
fn a_list_replaces_the_names_with_its_limits_and_no_others() {
    let mut bench = Bench::new(&[], 100).with_two_services();
    let web = || json!({"service": "web"});
    bench.add_limited("a.example", web());
    bench.add_limited("b.example", web());
    bench.add(Allow, &["a.example"]).unwrap();
    bench.hear("a.example", Ok(&["192.0.2.1"]));
    let end = (bench.now.wall + 60.seconds()).to_string();
    let rules = json!([{"prefix": "c.example"}, {"prefix": "a.example", "expires": end}]);
    let reply = bench.replace_limited(rules, web());
    assert_eq!((reply.added, reply.removed), (vec!["c.example".into()], vec!["b.example".into()]));
    assert!(reply.changed[0].starts_with("a.example ends at "), "{:?}", reply.changed);
    assert_eq!(bench.names(), ["a.example", "c.example for web", "a.example for web"]);
    assert_eq!(bench.reach("192.0.2.1"), ["ollama web", "ollama web"]);
    // All of them, whatever their limits.
    let reply = bench.replace(Allow, &["c.example"]).unwrap();
    assert_eq!(reply.added, ["c.example"]);
    assert_eq!(reply.removed, ["a.example", "c.example"]);
    assert_eq!(
        (bench.names(), bench.reach("192.0.2.1")),
        (vec!["c.example".into()], ["", ""].map(Into::into))
    );
    // What the configuration says stays, and is told.
    let mut desired = bench.guard.desired.clone();
    desired.names = vec![name_rule("of.example")];
    bench.guard.reconfigure(desired, &bench.now).unwrap();
    let reply = bench.replace(Allow, &["of.example"]).unwrap();
    assert_eq!(
        (reply.unchanged, reply.kept[0].prefix.as_str()),
        (vec!["of.example".into()], "of.example")
    );
    assert_eq!(reply.removed, ["c.example"]);
}

#[test]
fn a_rule_for_less_changes_nothing_about_one_for_more() {
    let mut bench = Bench::new(&[], 100).with_two_services();
    let limits = || json!({"service": "web", "on": ["wg0"]});
    for whom in ["192.0.2.1", "a.example"] {
        let request = json!({"effect": "allow", "prefixes": [whom], "for_seconds": 60});
        bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap();
        let reply = bench.add_limited(whom, limits());
        assert_eq!((reply.added, reply.changed.len()), (vec![whom.to_owned()], 0));
        let request = json!({"effect": "allow", "prefixes": [whom], "for_seconds": 9, "limits": {"service": "ollama"}});
        let reply = bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap();
        assert_eq!((reply.added, reply.changed.len()), (vec![whom.to_owned()], 0));
    }
    bench.now.boot += Duration::from_secs(60);
    bench.now.wall += 60.seconds();
    let ended = bench.guard.end_due(&bench.now);
    assert_eq!((ended.rules.len(), ended.names.len()), (2, 2));
    assert_eq!(bench.names(), ["a.example for web, on wg0"]);
    assert_eq!(bench.reach("192.0.2.1"), ["", "web"]);
}
