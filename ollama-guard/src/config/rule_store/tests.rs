//! What the store does on a real disk.

use std::os::unix::fs::{MetadataExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::policy::{Commented, Effect, Limits, Named, NamedHost, Origin};

fn rule(text: &str) -> Rule {
    let at = "2026-03-01T12:00:00Z".parse().unwrap();
    Rule {
        prefix: text.parse().unwrap(),
        effect: Effect::Allow,
        limits: None,
        comment: Some("the \"office\"\n".into()),
        origin: Origin::Cli { by: "root".into(), at }.into(),
        expires: None,
    }
}

/// A state directory that does not exist yet, and where its file will be.
fn bed() -> (TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("deep").join("state");
    let file = state.join(FILE_NAME);
    (directory, state, file)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn rules_survive_and_only_their_owner_can_read_them() {
    let (_directory, state, file) = bed();
    let mut store = RuleStore::open(&state).unwrap();
    assert!(store.rules().is_empty());
    assert!(!file.exists(), "nothing is written before there is something to keep");
    let rules = vec![rule("192.0.2.1"), rule("10.0.0.0/8"), rule("2001:db8::/32")];
    store.replace(rules.clone()).unwrap();
    assert_eq!(store.rules(), rules);
    assert_eq!(RuleStore::open(&state).unwrap().rules(), rules);
    assert_eq!((mode(&state), mode(&file)), (0o700, 0o600));
    let names: Vec<_> = fs::read_dir(&state).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [FILE_NAME], "nothing else is left behind");
    store.replace(Vec::new()).unwrap();
    assert!(RuleStore::open(&state).unwrap().rules().is_empty());
}

#[test]
fn a_crash_while_writing_leaves_the_old_rules() {
    let (_directory, state, _) = bed();
    let mut store = RuleStore::open(&state).unwrap();
    store.replace(vec![rule("192.0.2.1")]).unwrap();
    fs::write(state.join(NEW_FILE_NAME), "{\"version\":3,\"ru").unwrap();
    let mut store = RuleStore::open(&state).unwrap();
    assert_eq!(store.rules(), [rule("192.0.2.1")]);
    store.replace(vec![rule("192.0.2.2")]).unwrap();
    assert_eq!(RuleStore::open(&state).unwrap().rules(), [rule("192.0.2.2")]);
}

#[test]
fn a_write_that_fails_changes_nothing() {
    let (_directory, state, file) = bed();
    let mut store = RuleStore::open(&state).unwrap();
    store.replace(vec![rule("192.0.2.1")]).unwrap();
    // A directory that is not empty cannot be removed by writing, also not by root.
    fs::create_dir_all(state.join(NEW_FILE_NAME).join("full")).unwrap();
    let error = store.replace(vec![rule("192.0.2.2")]).unwrap_err();
    assert!(matches!(error, StoreError::Write { .. }), "{error}");
    assert!(error.to_string().ends_with("the rules stay as they were"), "{error}");
    assert_eq!(store.rules(), [rule("192.0.2.1")]);
    fs::remove_dir_all(state.join(NEW_FILE_NAME)).unwrap();
    assert_eq!(RuleStore::open(&state).unwrap().rules(), [rule("192.0.2.1")]);
    assert!(file.exists());
}

#[test]
fn a_file_that_is_not_understood_is_never_an_empty_list() {
    let (_directory, state, file) = bed();
    let mut store = RuleStore::open(&state).unwrap();
    store.replace(vec![rule("192.0.2.0/24")]).unwrap();
    let good = fs::read_to_string(&file).unwrap();
    let broken = [
        String::new(),
        "{}".into(),
        "[]".into(),
        "{\"version\":1}".into(),
        "{\"version\":3}\n".into(),
        good[..good.len() / 2].into(),
        good[..good.len() - 1].into(),
        good.lines().next().unwrap().into(),
        format!("{}\n", good.lines().next().unwrap()),
        good.replace("192.0.2.0/24", "192.0.2.1/24"),
        good.replace("\"rules\"", "\"more\":1,\"rules\""),
        good.replace("\"rules\":1", "\"rules\":2"),
        good.replace("allow", "perhaps"),
        format!("{}{{\"remove\":7}}\n", good.replace("\"changes\":0", "\"changes\":1")),
        good.replace("\"changes\":0", "\"changes\":1"),
        good.replace("\"changes\":0", "\"changes\":-"),
    ];
    for text in broken {
        fs::write(&file, &text).unwrap();
        let error = RuleStore::open(&state).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{text}: {error}");
        let message = error.to_string();
        assert!(message.contains("rules.json") && message.contains("`mv /"), "{message}");
    }
    fs::write(&file, good.replace("\"version\":3", "\"version\":4")).unwrap();
    let error = RuleStore::open(&state).unwrap_err();
    assert!(matches!(error, StoreError::Version { version: 4, .. }), "{error}");
}

#[test]
fn a_rule_of_the_configuration_is_not_kept() {
    let (_directory, state, file) = bed();
    let mut store = RuleStore::open(&state).unwrap();
    let foreign = Rule { origin: Origin::Flag.into(), ..rule("192.0.2.1") };
    let error = store.replace(vec![rule("192.0.2.2"), foreign]).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    assert!(!file.exists());
    let text = "{\"version\":1,\"rules\":[{\"prefix\":\"192.0.2.1\",\"effect\":\"allow\",\
                \"origin\":{\"kind\":\"flag\"}}]}";
    fs::write(&file, text).unwrap();
    assert!(matches!(RuleStore::open(&state).unwrap_err(), StoreError::Foreign { .. }));
}

#[test]
fn what_others_could_have_written_is_not_believed() {
    let (directory, state, file) = bed();
    let mut store = RuleStore::open(&state).unwrap();
    store.replace(vec![rule("192.0.2.1")]).unwrap();

    fs::set_permissions(&file, Permissions::from_mode(0o620)).unwrap();
    let error = RuleStore::open(&state).unwrap_err().to_string();
    assert!(error.contains("chmod go-w /"), "{error}");

    let elsewhere = directory.path().join("elsewhere");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    let error = RuleStore::open(&state).unwrap_err().to_string();
    assert!(error.contains("symbolic link"), "{error}");

    fs::set_permissions(&state, Permissions::from_mode(0o777)).unwrap();
    let error = RuleStore::open(&state).unwrap_err();
    assert!(matches!(error, StoreError::DirectoryUntrusted { .. }), "{error}");
}

#[test]
fn a_state_directory_that_is_a_file_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    fs::write(&state, "").unwrap();
    let error = RuleStore::open(&state).unwrap_err();
    assert!(matches!(error, StoreError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("--state-dir"), "{error}");
}

fn named(text: &str) -> Named {
    Named { prefix: text.parse().unwrap(), effect: Effect::Allow, limits: None }
}

/// A store with two rules, and its file.
fn kept() -> (TempDir, PathBuf, PathBuf, RuleStore) {
    let (directory, state, file) = bed();
    let mut store = RuleStore::open(&state).unwrap();
    store.replace(vec![rule("192.0.2.1"), rule("192.0.2.2")]).unwrap();
    (directory, state, file, store)
}

fn adding(text: &str) -> Change {
    Change { add: vec![rule(text)], ..Change::default() }
}

fn stored(state: &Path) -> Vec<String> {
    RuleStore::open(state).unwrap().rules().iter().map(|rule| rule.prefix.to_string()).collect()
}

#[test]
fn a_change_is_appended_and_can_be_taken_back() {
    let (_directory, state, file, mut store) = kept();
    let (inode, before) = (fs::metadata(&file).unwrap().ino(), fs::read(&file).unwrap());
    let prefix = "192.0.2.2".parse().unwrap();
    let comment = Some("the printer".into());
    let change = Change {
        add: vec![rule("192.0.2.3")],
        remove: vec![named("192.0.2.1")],
        comment: vec![Commented { prefix, effect: Effect::Allow, limits: None, comment }],
        ..Change::default()
    };
    let undo = store.change(change).unwrap();
    assert_eq!(stored(&state), ["192.0.2.2", "192.0.2.3"]);
    assert_eq!(RuleStore::open(&state).unwrap().rules(), store.rules());
    assert_eq!(store.rules()[0].comment.as_deref(), Some("the printer"));
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode, "it is the same file");
    store.undo(undo).unwrap();
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(store.rules(), RuleStore::open(&state).unwrap().rules());
    assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2"]);
    // And it goes on, also in another process.
    store.change(adding("192.0.2.4")).unwrap();
    let mut store = RuleStore::open(&state).unwrap();
    store.change(adding("192.0.2.5")).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
    assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2", "192.0.2.4", "192.0.2.5"]);
}

#[test]
fn the_first_change_of_all_writes_the_file() {
    let (_directory, state, file) = bed();
    let mut store = RuleStore::open(&state).unwrap();
    let undo = store.change(adding("192.0.2.1")).unwrap();
    assert_eq!((stored(&state), mode(&file)), (vec!["192.0.2.1".to_owned()], 0o600));
    store.undo(undo).unwrap();
    assert!(stored(&state).is_empty() && store.rules().is_empty());
}

#[test]
fn a_change_that_a_crash_cut_off_was_never_made() {
    let (_directory, state, file, mut store) = kept();
    let before = fs::read(&file).unwrap();
    store.change(adding("192.0.2.3")).unwrap();
    let after = fs::read(&file).unwrap();
    for length in before.len()..=after.len() {
        // The head is written last.
        let head = before.iter().position(|&byte| byte == b'\n').unwrap();
        let crashed = [&before[..head], &after[head..length]].concat();
        fs::write(&file, crashed).unwrap();
        assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2"], "{length} bytes");
    }
    // What is written next is not appended to that.
    let mut store = RuleStore::open(&state).unwrap();
    store.change(adding("192.0.2.4")).unwrap();
    assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2", "192.0.2.4"]);
}

#[test]
fn a_file_that_was_cut_off_is_damaged_wherever_that_was() {
    let (_directory, state, file, mut store) = kept();
    store.change(adding("192.0.2.3")).unwrap();
    store.change(Change { remove: vec![named("192.0.2.1")], ..Change::default() }).unwrap();
    let bytes = fs::read(&file).unwrap();
    for length in 0..bytes.len() {
        fs::write(&file, &bytes[..length]).unwrap();
        let error = RuleStore::open(&state).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{length} bytes: {error}");
    }
}

#[test]
fn a_file_that_somebody_has_changed_is_not_appended_to() {
    let (_directory, state, file, mut store) = kept();
    let (bytes, copy) = (fs::read(&file).unwrap(), state.join("copy"));
    fs::write(&file, [&bytes[..], b"{\"add\":["].concat()).unwrap();
    store.change(adding("192.0.2.3")).unwrap();
    assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    // Another file, a link, none at all.
    fs::copy(&file, &copy).unwrap();
    fs::rename(&copy, &file).unwrap();
    store.change(adding("192.0.2.4")).unwrap();
    fs::rename(&file, &copy).unwrap();
    symlink(&copy, &file).unwrap();
    store.change(adding("192.0.2.5")).unwrap();
    assert!(!fs::symlink_metadata(&file).unwrap().is_symlink());
    fs::remove_file(&file).unwrap();
    store.change(adding("192.0.2.6")).unwrap();
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6"];
    assert_eq!(stored(&state), all);
}

#[test]
fn after_many_changes_the_list_is_written_whole() {
    let (_directory, state, file, mut store) = kept();
    let inode = fs::metadata(&file).unwrap().ino();
    for _ in 0..100 {
        let many = (0..200).map(|n| rule(&format!("198.51.100.{n}"))).collect();
        let gone = (0..200).map(|n| named(&format!("198.51.100.{n}"))).collect();
        store.change(Change { add: many, ..Change::default() }).unwrap();
        store.change(Change { remove: gone, ..Change::default() }).unwrap();
    }
    assert_ne!(fs::metadata(&file).unwrap().ino(), inode);
    assert!(fs::metadata(&file).unwrap().len() < 2 * CHANGES_BYTES);
    assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2"]);
}

#[test]
fn a_file_of_version_1_is_read_and_written_anew() {
    let (_directory, state, file) = bed();
    RuleStore::open(&state).unwrap();
    let rules = serde_json::to_string(&[rule("192.0.2.1"), rule("192.0.2.2")]).unwrap();
    fs::write(&file, format!("{{\"version\":1,\"rules\":{rules}}}\n")).unwrap();
    let mut store = RuleStore::open(&state).unwrap();
    assert_eq!(store.rules(), [rule("192.0.2.1"), rule("192.0.2.2")]);
    store.change(adding("192.0.2.3")).unwrap();
    assert!(
        fs::read_to_string(&file).unwrap().starts_with("{\"version\":3,\"rules\":3,\"changes\":0")
    );
    assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
}

#[test]
fn a_file_of_version_2_is_read_and_written_anew() {
    let (_directory, state, file, mut store) = kept();
    store.change(adding("192.0.2.3")).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("\"version\":3", "\"version\":2")).unwrap();
    let mut store = RuleStore::open(&state).unwrap();
    assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    store.change(adding("192.0.2.4")).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("{\"version\":3,\"rules\":4,\"changes\":0"), "{text}");
}

fn with_end(text: &str, end: &str) -> Rule {
    Rule { expires: Some(end.parse().unwrap()), ..rule(text) }
}

#[test]
fn an_end_is_kept_and_what_has_ended_is_gone_for_good() {
    let (_directory, state, _, mut store) = kept();
    let short = with_end("192.0.2.3", "2026-03-01T14:00:00Z");
    store.change(Change { add: vec![short.clone()], ..Change::default() }).unwrap();
    let mut store = RuleStore::open(&state).unwrap();
    assert_eq!(store.rules().last(), Some(&short));
    store.end(|rule| rule.expires.is_some(), |name| name.expires.is_some()).unwrap();
    assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(store.rules().len(), 2);
}

#[test]
fn what_has_ended_does_not_go_on_because_the_disk_is_full() {
    let (_directory, state, _, mut store) = kept();
    let short = with_end("192.0.2.3", "2026-03-01T14:00:00Z");
    store.change(Change { add: vec![short], ..Change::default() }).unwrap();
    // Neither appending nor writing anew works now.
    fs::rename(state.join(FILE_NAME), state.join("aside")).unwrap();
    fs::create_dir_all(state.join(FILE_NAME).join("full")).unwrap();
    assert!(store.end(|rule| rule.expires.is_some(), |name| name.expires.is_some()).is_err());
    assert_eq!(store.rules().len(), 2);
    assert!(store.catch_up().is_err());
    fs::remove_dir_all(state.join(FILE_NAME)).unwrap();
    fs::rename(state.join("aside"), state.join(FILE_NAME)).unwrap();
    assert_eq!(stored(&state).len(), 3);
    store.catch_up().unwrap();
    assert_eq!(stored(&state), ["192.0.2.1", "192.0.2.2"]);
}

#[test]
fn entries_of_the_configuration_that_have_ended_are_remembered_while_they_stand_there() {
    let (_directory, state, _, mut store) = kept();
    let ended = with_end("192.0.2.3", "2026-03-01T14:00:00Z");
    let later = with_end("192.0.2.3", "2026-03-01T15:00:00Z");
    store.remember_ended([&ended].into_iter(), [].into_iter()).unwrap();
    let mut store = RuleStore::open(&state).unwrap();
    assert!(
        store.has_ended(&ended) && !store.has_ended(&later) && !store.has_ended(&rule("::1:1"))
    );
    store.forget_ended_but([&ended, &later].into_iter(), [].into_iter()).unwrap();
    assert!(store.has_ended(&ended));
    store.forget_ended_but([&later].into_iter(), [].into_iter()).unwrap();
    assert!(!RuleStore::open(&state).unwrap().has_ended(&ended));
    fs::write(state.join("ended.json"), "{\"version\":2,\"ended\":[]}").unwrap();
    fs::set_permissions(state.join("ended.json"), Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(RuleStore::open(&state), Err(StoreError::Version { known: 1, .. })));
}

fn name(text: &str) -> NameRule {
    let Rule { effect, limits, comment, origin, .. } = rule("192.0.2.1");
    NameRule { name: text.parse().unwrap(), effect, limits, comment, origin, expires: None }
}

#[test]
fn names_are_kept_beside_the_rules() {
    let (_directory, state, file, mut store) = kept();
    let before = fs::read(&file).unwrap();
    let change =
        Change { add_names: vec![name("a.example"), name("b.example")], ..Change::default() };
    let undo = store.change(change.clone()).unwrap();
    store.undo(undo).unwrap();
    assert_eq!(fs::read(&file).unwrap(), before);
    assert!(store.names().is_empty());
    store.change(change).unwrap();
    let gone = NamedHost::of(&name("a.example"));
    store.change(Change { remove_names: vec![gone], ..Change::default() }).unwrap();
    assert_eq!(RuleStore::open(&state).unwrap().names(), [name("b.example")]);
    // Written whole, and then appended to.
    store.replace(vec![rule("192.0.2.9")]).unwrap();
    store.change(adding("192.0.2.8")).unwrap();
    let store = RuleStore::open(&state).unwrap();
    assert_eq!(store.names(), [name("b.example")]);
    assert_eq!(stored(&state), ["192.0.2.9", "192.0.2.8"]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("{\"version\":3,\"rules\":1,\"changes\":2"), "{text}");
}

#[test]
fn a_name_with_limits_is_another_one() {
    let (_directory, state, file, mut store) = kept();
    let limits = Limits::new(Some("webui".into()), vec!["eth1".parse().unwrap()]);
    let limited = NameRule { limits, ..name("a.example") };
    let add_names = vec![name("a.example"), limited.clone()];
    store.change(Change { add_names, ..Change::default() }).unwrap();
    let gone = NamedHost::of(&name("a.example"));
    store.change(Change { remove_names: vec![gone], ..Change::default() }).unwrap();
    assert_eq!(RuleStore::open(&state).unwrap().names(), [limited]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(r#""limits":{"service":"webui","on":["eth1"]}"#), "{text}");
    store.end(|_| false, |name| name.limits.is_some()).unwrap();
    assert!(RuleStore::open(&state).unwrap().names().is_empty());
}
