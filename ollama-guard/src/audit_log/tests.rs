use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::*;

fn entry<'a>(prefixes: &'a [String], comment: Option<&'a str>) -> Entry<'a> {
    Entry {
        time: "2026-03-01T12:00:00.5Z".parse().expect("a timestamp"),
        uid: 1000,
        pid: Some(42),
        user: Some("ada"),
        action: "add",
        effect: Some("allow"),
        prefixes,
        comment,
        generation: Some(7),
        result: Ok(()),
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the log");
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
}

#[test]
fn a_line_says_who_did_what_and_what_came_of_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().join("state");
    let mut log = AuditLog::open(&state).expect("the log");
    let prefixes = ["192.0.2.0/24".to_owned()];
    log.append(&entry(&prefixes, Some("office"))).expect("a line");
    let refused = Entry { generation: None, result: Err("no"), ..entry(&prefixes, None) };
    log.append(&refused).expect("a line");

    let path = state.join(AUDIT_FILE);
    let lines = lines(&path);
    assert_eq!(
        lines[0],
        json!({
            "time": "2026-03-01T12:00:00.500Z", "uid": 1000, "pid": 42, "user": "ada",
            "action": "add", "effect": "allow", "count": 1, "prefixes": ["192.0.2.0/24"],
            "comment": "office", "generation": 7, "result": "done",
        })
    );
    assert_eq!((&lines[1]["result"], &lines[1]["generation"]), (&json!("no"), &Value::Null));
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode();
    assert_eq!(mode(&path) & 0o7777, 0o600);
    assert_eq!(mode(&state) & 0o7777, 0o700);
}

#[test]
fn a_comment_cannot_forge_a_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = AuditLog::open(directory.path()).expect("the log");
    let forged = "x\"}\n{\"uid\":0,\"result\":\"done\"}\r\n\u{0}\u{1b}[2J";
    log.append(&entry(&[forged.to_owned()], Some(forged))).expect("a line");
    let lines = lines(&directory.path().join(AUDIT_FILE));
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["comment"], &lines[0]["uid"]), (&json!(forged), &json!(1000)));
}

#[test]
fn a_huge_change_is_a_small_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = AuditLog::open(directory.path()).expect("the log");
    let mut prefixes = vec!["é".repeat(10_000); AUDIT_PREFIXES];
    prefixes.resize(70_000, "192.0.2.0/24".to_owned());
    let comment = "\u{1}".repeat(100_000);
    log.append(&entry(&prefixes, Some(&comment))).expect("a line");
    let path = directory.path().join(AUDIT_FILE);
    assert!(fs::metadata(&path).expect("metadata").len() < 16_384);
    let line = &lines(&path)[0];
    assert_eq!(line["count"], 70_000);
    assert_eq!(line["prefixes"].as_array().map(Vec::len), Some(AUDIT_PREFIXES));
}

#[test]
fn it_rotates_and_keeps_three() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = AuditLog::open_with(directory.path(), 1_000).expect("the log");
    for generation in 0..40 {
        let entry = Entry { generation: Some(generation), ..entry(&[], None) };
        log.append(&entry).expect("a line");
    }
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .expect("the directory")
        .map(|file| file.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3"]);
    let mut generations = Vec::new();
    for name in names.iter().rev() {
        let path = directory.path().join(name);
        let metadata = fs::metadata(&path).expect("metadata");
        assert!(metadata.len() <= 1_000);
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
        generations.extend(lines(&path).iter().map(|line| line["generation"].as_u64()));
    }
    // The newest ones without a gap.
    let first = 40 - generations.len() as u64;
    assert_eq!(generations, (first..40).map(Some).collect::<Vec<_>>());
}

#[test]
fn it_goes_on_after_a_cut_line_and_after_the_file_was_moved_away() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(AUDIT_FILE);
    fs::write(&path, "{\"uid\":1").expect("a cut line");
    let mut log = AuditLog::open(directory.path()).expect("the log");
    log.append(&entry(&[], None)).expect("a line");
    let text = fs::read_to_string(&path).expect("the log");
    assert!(text.starts_with("{\"uid\":1\n{\"time\""), "{text}");

    fs::rename(&path, directory.path().join("elsewhere")).expect("moved");
    log.append(&entry(&[], None)).expect("a line");
    assert_eq!(lines(&path).len(), 1);
}

#[test]
fn what_cannot_be_written_is_told_and_nothing_is_followed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = AuditLog::open(directory.path()).expect("the log");
    let path = directory.path().join(AUDIT_FILE);
    fs::remove_file(&path).expect("removed");
    let victim = directory.path().join("victim");
    std::os::unix::fs::symlink(&victim, &path).expect("a link");
    let error = log.append(&entry(&[], None)).expect_err("not written");
    assert!(error.to_string().contains("is not a regular file"), "{error}");
    assert!(!victim.exists());

    fs::remove_file(&path).expect("removed");
    log.append(&entry(&[], None)).expect("a line, now that the way is free");
}

#[test]
fn a_full_disk_is_an_error_and_no_panic() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut log = AuditLog::open(directory.path()).expect("the log");
    log.append(&entry(&[], None)).expect("a line");
    log.file = OpenOptions::new().write(true).open("/dev/full").expect("a full device");
    let error = log.write(b"half a line\n", 0).expect_err("no space");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}
