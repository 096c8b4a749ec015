//! The commands that talk to the daemon, against the real server.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use clap::{Parser, Subcommand};
use ollama_guard::{
    cli::{
        events::{self, EventsArgs},
        rules::{self, RulesArgs},
    },
    control::{Effect, protocol::Edit},
};

use crate::bed::{Bed, event, rule, until};

/// A command line as the binary has it.
#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Allow(RulesArgs),
    Deny(RulesArgs),
    Events(EventsArgs),
}

/// Stands in for the parser of prefixes.
fn check(prefix: &str) -> Result<(), String> {
    if matches!(prefix, "host" | "other") {
        return Err(format!("`{prefix}` is a name"));
    }
    Ok(())
}

struct Said {
    result: anyhow::Result<ExitCode>,
    out: String,
    err: String,
}

impl Said {
    fn out(self) -> String {
        assert_eq!(self.result.expect("done"), ExitCode::SUCCESS);
        self.out
    }

    fn error(self) -> String {
        assert_eq!(self.out, "");
        self.result.expect_err("refused").to_string()
    }
}

async fn type_in(
    socket: &Path,
    words: &[&str],
    out: &mut (dyn Write + Send),
) -> (anyhow::Result<ExitCode>, String) {
    let words = std::iter::once("ollama-guard").chain(words.iter().copied());
    let mut err = Vec::new();
    let result = match Line::try_parse_from(words).expect("a command line").command {
        Command::Allow(args) => {
            rules::execute(Effect::Allow, args, socket, check, (out, &mut err), None).await
        }
        Command::Deny(args) => {
            rules::execute(Effect::Deny, args, socket, check, (out, &mut err), None).await
        }
        Command::Events(args) => events::execute(args, socket, out, &mut err).await,
    };
    (result, String::from_utf8(err).expect("text"))
}

async fn say(bed: &Bed, words: &[&str]) -> Said {
    let mut out = Vec::new();
    let (result, err) = type_in(&bed.path, words, &mut out).await;
    Said { result, out: String::from_utf8(out).expect("text"), err }
}

#[tokio::test]
async fn rules_are_added_removed_and_replaced() {
    let bed = Bed::new();
    let words = ["allow", "add", "192.0.2.1", "2001:db8::/32", "--comment", "ada", "--anyone"];
    let expected = "added 2 allow rules: 192.0.2.1, 2001:db8::/32\ngeneration 6 is in force\n";
    assert_eq!(say(&bed, &words).await.out(), expected);
    say(&bed, &["deny", "remove", "192.0.2.1"]).await.out();
    let list = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&list, "192.0.2.7 # lab\n\n::2\n").expect("a list");
    let name = list.path().to_str().expect("a name");
    say(&bed, &["deny", "replace", name]).await.out();

    let asked = bed.backend.asked.lock().expect("the list");
    let [(Edit::Add(add), _), (Edit::Remove(remove), _), (Edit::Replace(replace), _)] = &asked[..]
    else {
        panic!("{asked:?}");
    };
    assert_eq!(add.comment.as_ref().map(|comment| comment.as_str()), Some("ada"));
    assert!(add.anyone && add.effect == Effect::Allow);
    assert_eq!(
        (remove.effect, &remove.prefixes[..]),
        (Effect::Deny, &["192.0.2.1".to_owned()][..])
    );
    assert!(!replace.anyone && replace.effect == Effect::Deny);
    let new: Vec<_> = replace.rules.iter().map(|rule| rule.prefix.as_str()).collect();
    assert_eq!(new, ["192.0.2.7", "::2"]);
}

#[tokio::test]
async fn what_is_wrong_is_told_before_anything_is_sent() {
    let bed = Bed::new();
    let error = say(&bed, &["allow", "add", "host", "192.0.2.1", "other"]).await.error();
    assert_eq!(error, "`host` is a name\n`other` is a name");
    let error = say(&bed, &["deny", "remove", "host"]).await.error();
    assert_eq!(error, "`host` is a name");
    let said = say(&bed, &["allow", "add", "::1", "--comment", "a\nb"]).await;
    assert!(format!("{:#}", said.result.expect_err("refused")).contains("one line"));
    let list = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&list, "::1\nhost\n::2\nother\n").expect("a list");
    let name = list.path().to_str().expect("a name");
    let error = say(&bed, &["allow", "replace", name]).await.error();
    assert!(error.contains(":2: `host`") && error.contains(":4: `other`"), "{error}");
    assert!(bed.backend.asked.lock().expect("the list").is_empty());
}

#[tokio::test]
async fn the_daemons_refusal_is_the_message() {
    let bed = Bed::new();
    for (prefix, words) in [("bad", "`bad` is no prefix"), ("file", "it stands on line 12")] {
        let error = say(&bed, &["allow", "add", prefix]).await.error();
        assert_eq!(error, words);
    }
    let absent = Path::new("/nonexistent/control.sock");
    let mut out = Vec::new();
    let (result, _) = type_in(absent, &["allow", "list"], &mut out).await;
    let error = result.expect_err("no daemon").to_string();
    assert!(error.starts_with("no daemon answers on /nonexistent/control.sock"), "{error}");
}

#[tokio::test]
async fn a_list_shows_one_effect() {
    let bed = Bed::new();
    let mut denied = rule("198.51.100.0/24");
    denied.effect = Effect::Deny;
    *bed.backend.rules.lock().expect("the rules") = vec![rule("192.0.2.1"), denied];
    let text = say(&bed, &["allow", "list"]).await.out();
    assert!(text.contains("\n192.0.2.1  added by root\n") && !text.contains("198"), "{text}");
    let json = say(&bed, &["deny", "list", "--json"]).await.out();
    let json: serde_json::Value = serde_json::from_str(&json).expect("json");
    assert_eq!(json["rules"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["rules"][0]["prefix"], "198.51.100.0/24");

    bed.backend.rules.lock().expect("the rules").clear();
    let said = say(&bed, &["allow", "list"]).await;
    assert!(said.err.starts_with("no allow rules: "), "{}", said.err);
    assert_eq!(said.out(), "");
}

#[tokio::test]
async fn events_are_printed_as_lines() {
    let bed = Bed::new();
    let said = say(&bed, &["events"]).await;
    assert!(said.err.starts_with("no drop was reported"), "{}", said.err);
    assert_eq!(said.out(), "");
    bed.backend.journal.push(event(1));
    let text = say(&bed, &["events"]).await.out();
    assert!(text.starts_with("TIME ") && text.lines().count() == 2, "{text}");
    let json = say(&bed, &["events", "--json"]).await.out();
    assert_eq!(json, serde_json::to_string(&event(1)).expect("json") + "\n");
}

#[tokio::test]
async fn a_followed_stream_says_when_the_daemon_ended_it() {
    let mut bed = Bed::new();
    bed.backend.journal.push(event(1));
    let (path, shown) = (bed.path.clone(), Shown::default());
    let mut out = shown.clone();
    let follower =
        tokio::spawn(
            async move { type_in(&path, &["events", "--follow", "--json"], &mut out).await },
        );
    until("the first event", || shown.lines() == 1).await;
    bed.backend.journal.push(event(2));
    bed.begin_shutdown();
    let (result, err) = follower.await.expect("no panic");
    assert_eq!((result.expect("an end"), shown.lines()), (ExitCode::from(2), 2));
    assert_eq!(err, "the daemon ended the stream: it is stopping\n");
}

/// An output that can be looked at while it is written.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl Shown {
    fn lines(&self) -> usize {
        self.0.lock().expect("the text").iter().filter(|&&byte| byte == b'\n').count()
    }
}

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the text").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose reader is gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let bed = Bed::new();
    bed.backend.rules.lock().expect("the rules").push(rule("192.0.2.1"));
    bed.backend.journal.push(event(1));
    for words in [
        &["allow", "list"][..],
        &["allow", "list", "--json"],
        &["allow", "add", "::1"],
        &["events"],
        &["events", "--follow"],
        &["events", "--follow", "--json"],
    ] {
        let (result, _) = type_in(&bed.path, words, &mut Closed).await;
        assert_eq!(result.expect("no failure"), ExitCode::SUCCESS, "{words:?}");
    }
}
