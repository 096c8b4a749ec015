mod ends;
mod names;
mod trial;

use std::io;

use ollama_guard_common::Mode;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    control::protocol::{Edit, EditReply},
    dataplane::{DataplaneError, TrialEnd},
    policy::{Digests, Effect, End, MapImage, Port},
};

/// A kernel that keeps what it is told, or refuses.
#[derive(Default)]
struct Sink {
    images: Vec<MapImage>,
    /// What a trial falls back to, and when.
    trial: Option<(MapImage, u64)>,
    refuses: bool,
}

impl PolicySink for Sink {
    fn swap(&mut self, image: &MapImage, _: &Digests) -> Result<u64, DataplaneError> {
        if self.refuses {
            let source = io::Error::other("no memory");
            return Err(DataplaneError::RawMap { action: "write", map: "OG_TEST", source });
        }
        self.images.push(image.clone());
        Ok(self.images.len() as u64)
    }

    fn try_out(
        &mut self,
        image: &MapImage,
        digests: &Digests,
        until: u64,
    ) -> Result<u64, DataplaneError> {
        let before = match &self.trial {
            Some((before, _)) => before.clone(),
            None => self.images.last().cloned().unwrap(),
        };
        let generation = self.swap(image, digests)?;
        self.trial = Some((before, until));
        Ok(generation)
    }

    fn swap_before(&mut self, image: &MapImage, _: &Digests) -> Result<u64, DataplaneError> {
        self.trial.as_mut().unwrap().0 = image.clone();
        Ok(self.images.len() as u64)
    }

    fn settle(&mut self, end: TrialEnd) -> Result<u64, DataplaneError> {
        let (before, _) = self.trial.take().unwrap();
        if end == TrialEnd::Reverted {
            self.images.push(before);
        }
        Ok(self.images.len() as u64)
    }

    fn services(&self) -> Vec<(u8, String)> {
        let last = self.images.last().into_iter().flat_map(|image| &image.services);
        last.map(|(number, service)| (*number, service.name.clone())).collect()
    }
}

struct Bench {
    guard: Guard<Sink>,
    directory: TempDir,
    now: Moment,
}

impl Bench {
    fn new(configured: &[(Effect, &str)], capacity: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rules = configured
            .iter()
            .map(|&(effect, prefix)| Rule {
                prefix: prefix.parse().unwrap(),
                effect,
                limits: None,
                comment: None,
                origin: Origin::File {
                    path: std::path::Path::new("/etc/guard.toml").into(),
                    line: 7,
                }
                .into(),
                expires: None,
            })
            .collect();
        let services = vec![Service::ollama(Mode::Enforce, [Port::OLLAMA])];
        let names = Vec::new();
        let desired = Desired { scope: Scope::All, services, rules, names, capacity };
        let store = RuleStore::open(directory.path()).unwrap();
        let mut guard = Guard::new(Sink::default(), desired, store).unwrap();
        guard.apply().unwrap();
        // At a whole second, as ends are.
        let boot = Moment::now().boot;
        let wall = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
        Self { guard, directory, now: Moment { wall, boot } }
    }

    fn edit(&mut self, edit: Edit) -> Result<EditReply, GuardError> {
        self.guard.edit(&edit, "ada", &self.now)
    }

    fn add(&mut self, effect: Effect, prefixes: &[&str]) -> Result<EditReply, GuardError> {
        let request = json!({"effect": effect, "prefixes": prefixes});
        self.edit(Edit::Add(serde_json::from_value(request).unwrap()))
    }

    fn remove(&mut self, effect: Effect, prefixes: &[&str]) -> Result<EditReply, GuardError> {
        let request = json!({"effect": effect, "prefixes": prefixes});
        self.edit(Edit::Remove(serde_json::from_value(request).unwrap()))
    }

    fn replace(&mut self, effect: Effect, prefixes: &[&str]) -> Result<EditReply, GuardError> {
        let rules: Vec<_> = prefixes.iter().map(|prefix| json!({"prefix": prefix})).collect();
        let request = json!({"effect": effect, "rules": rules});
        self.edit(Edit::Replace(serde_json::from_value(request).unwrap()))
    }

    fn prefixes(&self) -> Vec<String> {
        self.guard.rules().rules.into_iter().map(|rule| rule.prefix).collect()
    }

    /// What a daemon that starts now would read.
    fn stored(&self) -> Vec<String> {
        let store = RuleStore::open(self.directory.path()).unwrap();
        store.rules().iter().map(|rule| rule.prefix.to_string()).collect()
    }

    fn swaps(&mut self) -> usize {
        self.guard.sink_mut().images.len()
    }
}

use Effect::{Allow, Deny};

#[test]
fn an_added_rule_is_stored_and_in_the_kernel() {
    let mut bench = Bench::new(&[], 100);
    let reply = bench.add(Allow, &["192.0.2.7", "2001:db8::/32"]).unwrap();
    assert_eq!(reply.added, ["192.0.2.7", "2001:db8::/32"]);
    assert_eq!(reply.generation, 2);
    assert_eq!(bench.stored(), ["192.0.2.7", "2001:db8::/32"]);
    let image = bench.guard.sink_mut().images.pop().unwrap();
    assert_eq!(image.prefixes, (1, 1));
}

#[test]
fn what_is_there_already_changes_nothing() {
    let mut bench = Bench::new(&[(Allow, "198.51.100.0/24")], 100);
    bench.add(Allow, &["192.0.2.7"]).unwrap();
    let swaps = bench.swaps();
    let reply = bench.add(Allow, &["192.0.2.7", "198.51.100.0/24", "192.0.2.7"]).unwrap();
    assert_eq!(reply.unchanged, ["192.0.2.7", "198.51.100.0/24"]);
    assert!(reply.added.is_empty());
    let warnings = [
        "198.51.100.0/24 is there already, from /etc/guard.toml line 7",
        "192.0.2.7 is given more than once",
    ];
    assert_eq!(reply.warnings, warnings);
    assert_eq!(bench.swaps(), swaps);
}

#[test]
fn one_bad_prefix_refuses_the_whole_request_and_all_of_them_are_named() {
    let mut bench = Bench::new(&[], 100);
    let error = bench.add(Allow, &["192.0.2.7", "10.1.2.3/8", "nonsense"]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("10.1.2.3/8") && text.contains("nonsense"), "{text}");
    assert!(bench.prefixes().is_empty());
    assert!(bench.stored().is_empty());
}

#[test]
fn everyone_needs_the_word_for_it() {
    let mut bench = Bench::new(&[], 100);
    for everyone in ["0.0.0.0/0", "::/0"] {
        let error = bench.add(Allow, &[everyone]).unwrap_err();
        assert!(error.to_string().contains("--anyone"), "{error}");
        assert!(bench.replace(Allow, &[everyone]).is_err());
    }
    let anyone = json!({"effect": "allow", "prefixes": ["0.0.0.0/0"], "anyone": true});
    assert!(bench.edit(Edit::Add(serde_json::from_value(anyone).unwrap())).is_ok());
}

#[test]
fn a_rule_of_the_configuration_is_not_removed_and_the_error_says_where_it_stands() {
    let mut bench = Bench::new(&[(Allow, "198.51.100.0/24")], 100);
    bench.add(Allow, &["192.0.2.7"]).unwrap();
    let error = bench.remove(Allow, &["192.0.2.7", "198.51.100.0/24"]).unwrap_err();
    assert!(error.to_string().contains("/etc/guard.toml line 7"), "{error}");
    assert_eq!(bench.stored(), ["192.0.2.7"], "nothing of the request was done");
    let error = bench.remove(Deny, &["192.0.2.7"]).unwrap_err();
    assert!(error.to_string().contains("deny list"), "{error}");
}

#[test]
fn removing_says_what_still_lets_the_source_in_and_when_nobody_is_left() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["192.0.2.0/24", "192.0.2.7"]).unwrap();
    let reply = bench.remove(Allow, &["192.0.2.7"]).unwrap();
    assert!(reply.warnings[0].contains("still covered by the allow rule 192.0.2.0/24"));
    let reply = bench.remove(Allow, &["192.0.2.0/24"]).unwrap();
    assert!(reply.warnings[0].contains("nobody"), "{:?}", reply.warnings);
}

#[test]
fn allowing_what_a_deny_rule_covers_says_so() {
    let mut bench = Bench::new(&[(Deny, "192.0.2.0/24")], 100);
    let reply = bench.add(Allow, &["192.0.2.7"]).unwrap();
    assert!(reply.warnings[0].contains("192.0.2.7 stays closed"), "{:?}", reply.warnings);
}

#[test]
fn replace_takes_its_own_effect_whole_and_leaves_the_rest() {
    let mut bench = Bench::new(&[(Allow, "198.51.100.0/24")], 100);
    bench.add(Allow, &["192.0.2.1", "192.0.2.2"]).unwrap();
    bench.add(Deny, &["192.0.2.66"]).unwrap();
    let reply = bench.replace(Allow, &["192.0.2.2", "192.0.2.3", "192.0.2.3"]).unwrap();
    assert_eq!(reply.added, ["192.0.2.3"]);
    assert_eq!(reply.removed, ["192.0.2.1"]);
    assert_eq!(reply.unchanged, ["192.0.2.2"]);
    assert_eq!(reply.warnings, ["192.0.2.3 is given more than once"]);
    assert_eq!(reply.kept[0].prefix, "198.51.100.0/24");
    assert_eq!(bench.prefixes(), ["198.51.100.0/24", "192.0.2.66", "192.0.2.2", "192.0.2.3"]);
}

#[test]
fn too_many_rules_are_refused_before_anything_changes() {
    let mut bench = Bench::new(&[], 2);
    bench.add(Allow, &["192.0.2.1", "192.0.2.2"]).unwrap();
    let error = bench.add(Allow, &["192.0.2.3"]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--capacity") && text.contains('2'), "{text}");
    assert_eq!(bench.stored(), ["192.0.2.1", "192.0.2.2"]);
    // Both families share the room.
    assert!(bench.add(Allow, &["2001:db8::1"]).is_err());
}

#[test]
fn a_kernel_that_refuses_leaves_rules_and_file_as_they_were() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["192.0.2.1"]).unwrap();
    bench.guard.sink_mut().refuses = true;
    assert!(bench.add(Allow, &["192.0.2.2"]).is_err());
    assert_eq!(bench.prefixes(), ["192.0.2.1"]);
    assert_eq!(bench.stored(), ["192.0.2.1"]);
    assert_eq!(bench.guard.rules().generation, 2);
}

#[test]
fn a_comment_can_be_changed_without_a_new_rule() {
    let mut bench = Bench::new(&[], 100);
    bench.add(Allow, &["192.0.2.1"]).unwrap();
    let request = json!({"effect": "allow", "prefixes": ["192.0.2.1"], "comment": "the printer"});
    let reply = bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap();
    assert_eq!(reply.unchanged, ["192.0.2.1"]);
    let rules = bench.guard.rules().rules;
    assert_eq!(rules[0].comment.as_deref(), Some("the printer"));
    assert_eq!(reply.generation, 2, "the kernel need not know");
}

fn another(allow: &[&str], mode: Mode) -> Desired {
    let rule = |prefix: &&str| Rule {
        prefix: prefix.parse().unwrap(),
        effect: Allow,
        limits: None,
        comment: None,
        origin: Origin::Flag.into(),
        expires: None,
    };
    let services = vec![Service::ollama(mode, [Port::OLLAMA])];
    let rules = allow.iter().map(rule).collect();
    Desired { scope: Scope::All, services, rules, names: Vec::new(), capacity: 7 }
}

#[test]
fn another_configuration_keeps_the_stored_rules_and_the_room() {
    let mut bench = Bench::new(&[(Allow, "198.51.100.0/24")], 100);
    bench.add(Allow, &["192.0.2.7"]).unwrap();
    let desired = another(&["203.0.113.0/24", "192.0.2.7"], Mode::Observe);
    bench.guard.would_take(&desired).unwrap();
    assert!(bench.guard.reconfigure(desired, &bench.now).unwrap());
    assert_eq!(bench.guard.generation(), 3);
    assert_eq!(bench.prefixes(), ["203.0.113.0/24", "192.0.2.7", "192.0.2.7"]);
    let image = bench.guard.sink_mut().images.last().unwrap().clone();
    assert_eq!((image.prefixes, image.mode), ((2, 0), Mode::Observe));
    assert_eq!(bench.guard.desired.capacity, 100);
    // What was added by command is still the command's to remove.
    bench.remove(Allow, &["192.0.2.7"]).unwrap();
    assert_eq!(bench.prefixes(), ["203.0.113.0/24", "192.0.2.7"]);
}

#[test]
fn what_says_the_same_is_no_matter_of_the_kernel() {
    let mut bench = Bench::new(&[(Allow, "198.51.100.0/24")], 100);
    let swaps = bench.swaps();
    assert!(
        !bench.guard.reconfigure(another(&["198.51.100.0/24"], Mode::Enforce), &bench.now).unwrap()
    );
    assert_eq!(bench.swaps(), swaps);
    assert_eq!(bench.guard.rules().rules[0].origin, "--allow on the command line");
}

#[test]
fn a_configuration_that_does_not_fit_or_that_the_kernel_refuses_changes_nothing() {
    let mut bench = Bench::new(&[(Allow, "198.51.100.0/24")], 2);
    let swaps = bench.swaps();
    let desired = another(&["192.0.2.1", "192.0.2.3", "192.0.2.5"], Mode::Enforce);
    assert!(matches!(bench.guard.would_take(&desired), Err(GuardError::Compile(_))));
    assert!(matches!(bench.guard.reconfigure(desired, &bench.now), Err(GuardError::Compile(_))));
    bench.guard.sink_mut().refuses = true;
    let desired = another(&["192.0.2.1"], Mode::Enforce);
    assert!(matches!(
        bench.guard.reconfigure(desired.clone(), &bench.now),
        Err(GuardError::Dataplane(_))
    ));
    assert_eq!((bench.swaps(), bench.prefixes()), (swaps, vec!["198.51.100.0/24".to_owned()]));
    // And the next one goes through.
    bench.guard.sink_mut().refuses = false;
    assert!(bench.guard.reconfigure(desired, &bench.now).unwrap());
    assert_eq!(bench.prefixes(), ["192.0.2.1"]);
}

#[test]
fn a_door_that_gets_another_name_of_the_same_kind_is_another_door() {
    let mut bench = Bench::new(&[], 100);
    let doors = |name: &str| BTreeMap::from([(2, name.to_owned())]);
    assert!(!bench.guard.know_doors(doors("eth0")).unwrap(), "nobody asks");
    let request = json!({"effect": "allow", "prefixes": ["192.0.2.1"], "limits": {"on": ["eth0"]}});
    bench.edit(Edit::Add(serde_json::from_value(request).unwrap())).unwrap();
    // What the rules say about the source there, in the policy that was put in force last.
    let reach = |bench: &mut Bench| {
        let image = bench.guard.sink_mut().images.last().unwrap().clone();
        image.rules.find("192.0.2.1".parse().unwrap()).unwrap().reach >> image.doors[&2] & 1
    };
    assert_eq!(reach(&mut bench), 1);
    assert!(bench.guard.know_doors(doors("eth1")).unwrap());
    assert_eq!(reach(&mut bench), 0);
    assert!(bench.guard.know_doors(doors("eth0")).unwrap());
    assert_eq!(reach(&mut bench), 1);
    assert!(!bench.guard.know_doors(doors("eth0")).unwrap());
}
