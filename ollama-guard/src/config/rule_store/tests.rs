//! What the store does on a real disk.

use std::os::unix::fs::{MetadataExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::policy::Effect;

fn rule(text: &str) -> Rule {
    let at = "2026-03-01T12:00:00Z".parse().unwrap();
    Rule {
        prefix: text.parse().unwrap(),
        effect: Effect::Allow,
        comment: Some("the \"office\"\n".into()),
        origin: Origin::Cli { by: "root".into(), at },
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
    fs::write(state.join(NEW_FILE_NAME), "{\"version\":1,\"ru").unwrap();
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
        good[..good.len() / 2].into(),
        format!("{good}{good}"),
        good.replace("192.0.2.0/24", "192.0.2.1/24"),
        good.replace("\"rules\"", "\"more\":1,\"rules\""),
        good.replace("allow", "perhaps"),
    ];
    for text in broken {
        fs::write(&file, &text).unwrap();
        let error = RuleStore::open(&state).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{text}: {error}");
        let message = error.to_string();
        assert!(message.contains("rules.json") && message.contains("`mv /"), "{message}");
    }
    fs::write(&file, good.replace("\"version\":1", "\"version\":2")).unwrap();
    let error = RuleStore::open(&state).unwrap_err();
    assert!(matches!(error, StoreError::Version { version: 2, .. }), "{error}");
}

#[test]
fn a_rule_of_the_configuration_is_not_kept() {
    let (_directory, state, file) = bed();
    let mut store = RuleStore::open(&state).unwrap();
    let foreign = Rule { origin: Origin::Flag, ..rule("192.0.2.1") };
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
