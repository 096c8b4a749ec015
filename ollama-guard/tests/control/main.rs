//! The control socket: the real server and the real client over a real Unix socket.

mod bed;
mod commands;
mod learning;
mod limits;
mod streams;

use bed::{Bed, rule};
use ollama_guard::control::{
    Client, ClientError, Effect,
    protocol::{AddRequest, Comment, Edit, NewRule, RemoveRequest, ReplaceRequest},
};
use serde_json::json;

fn add(prefixes: &[&str]) -> AddRequest {
    let comment = Comment::try_from("ada".to_owned()).ok();
    let prefixes = prefixes.iter().map(|&prefix| prefix.to_owned()).collect();
    AddRequest {
        effect: Effect::Allow,
        prefixes,
        limits: None,
        comment,
        anyone: false,
        expires: None,
        for_seconds: None,
    }
}

#[tokio::test]
async fn every_route_reaches_the_backend_and_back() {
    let bed = Bed::new();
    bed.backend.rules.lock().expect("the rules").push(rule("192.0.2.1"));
    assert_eq!(bed.client.status().await.expect("status"), json!({ "mode": "enforce" }));
    let rules = bed.client.rules().await.expect("rules");
    assert_eq!((rules.generation, rules.rules), (5, vec![rule("192.0.2.1")]));

    let add = add(&["192.0.2.2", "2001:db8::/32"]);
    let reply = bed.client.add(&add).await.expect("added");
    assert_eq!((reply.generation, &reply.added), (6, &add.prefixes));
    let remove = RemoveRequest {
        effect: Effect::Deny,
        prefixes: vec!["192.0.2.3".to_owned()],
        limits: None,
    };
    bed.client.remove(&remove).await.expect("removed");
    let new = NewRule { prefix: "::/0".to_owned(), comment: None, expires: None };
    let replace =
        ReplaceRequest { effect: Effect::Allow, rules: vec![new], limits: None, anyone: true };
    bed.client.replace(&replace).await.expect("replaced");
    assert_eq!(bed.client.detach().await.expect("detached").removed, ["all"]);

    let asked = bed.backend.asked.lock().expect("the list").clone();
    let edits: Vec<_> = asked.iter().map(|(edit, _)| edit.clone()).collect();
    assert_eq!(edits, [Edit::Add(add), Edit::Remove(remove), Edit::Replace(replace)]);
    let detached = bed.backend.detached.lock().expect("the peer").clone();
    for peer in asked.iter().map(|(_, peer)| peer).chain(&detached) {
        assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getgid().as_raw());
        assert_eq!(peer.pid, Some(nix::unistd::getpid().as_raw()));
    }
}

#[tokio::test]
async fn the_largest_list_goes_through_in_both_directions() {
    let bed = Bed::new();
    let prefixes: Vec<_> = (0..70_000).map(|n| format!("10.{}.{}.0/24", n >> 8, n & 255)).collect();
    let rules = prefixes.iter().map(|prefix| NewRule {
        prefix: prefix.clone(),
        comment: Comment::try_from(format!("customer {prefix} in the third row")).ok(),
        expires: None,
    });
    let request = ReplaceRequest {
        effect: Effect::Allow,
        rules: rules.collect(),
        limits: None,
        anyone: false,
    };
    assert!(serde_json::to_vec(&request).expect("json").len() > 4 << 20);
    let reply = bed.client.replace(&request).await.expect("replaced");
    assert_eq!(reply.added, prefixes);
    *bed.backend.rules.lock().expect("the rules") = prefixes.iter().map(|p| rule(p)).collect();
    assert_eq!(bed.client.rules().await.expect("rules").rules.len(), prefixes.len());
}

#[tokio::test]
async fn every_failure_has_its_status_and_its_words() {
    let bed = Bed::new();
    for (prefix, status, words) in [
        ("bad", 400, "`bad` is no prefix"),
        ("file", 409, "it stands on line 12"),
        ("busy", 503, "stopping"),
        ("broken", 500, "no"),
        ("panic", 500, "the daemon failed within this request"),
    ] {
        match bed.client.add(&add(&[prefix])).await {
            Err(ClientError::Refused { status: got, message }) => {
                assert_eq!(got, status);
                assert!(message.starts_with(words), "{message}");
            }
            other => panic!("{prefix}: {other:?}"),
        }
    }
    bed.client.status().await.expect("the daemon goes on");
}

#[tokio::test]
async fn requests_that_are_wrong_are_explained() {
    let bed = Bed::new();
    for (method, path, body, status, words) in [
        ("POST", "/v1/rules/add", "{", 400, "not understood: EOF"),
        ("POST", "/v1/rules/add", "", 400, "not understood: EOF"),
        ("POST", "/v1/rules/add", "\u{0}\u{ff}", 400, "not understood"),
        ("POST", "/v1/rules/add", r#"{"effect":"allow","prefixes":[]}"#, 400, "at least one"),
        ("POST", "/v1/rules/add", r#"{"effect":"allow","prefix":"::1"}"#, 400, "`prefix`"),
        ("POST", "/v1/rules/remove", r#"{"effect":1,"prefixes":["::1"]}"#, 400, "line 1"),
        (
            "POST",
            "/v1/rules/replace",
            r#"{"effect":"allow","rules":[{"prefix":"::1","comment":"a\nb"}]}"#,
            400,
            "one line",
        ),
        ("GET", "/v1/events?folow=true", "", 400, "follow=true"),
        ("GET", "/v1/events?follow=perhaps", "", 400, "follow=true"),
        ("GET", "/v1/events?since=yesterday", "", 400, "such as 90s, 15m, 1h or 2d"),
        ("GET", "/v1/events?until=&follow=true", "", 400, "such as 90s"),
        ("GET", "/v2/status", "", 404, "nothing at /v2/status"),
        ("GET", "/", "", 404, "/v1/status"),
        ("POST", "/v1/status", "", 405, "use GET"),
        ("GET", "/v1/detach", "", 405, "use POST"),
        ("DELETE", "/v1/rules/add", "", 405, "use POST"),
    ] {
        let (got, reply) = bed.ask(method, path, body).await;
        let error = reply["error"].as_str().expect("words");
        assert!(got == status && error.contains(words), "{method} {path} {body}: {got} {error}");
    }
    assert!(bed.backend.asked.lock().expect("the list").is_empty());
    assert!(bed.backend.detached.lock().expect("the peer").is_none());
}

#[tokio::test]
async fn what_is_no_http_harms_nobody() {
    let bed = Bed::new();
    for nonsense in ["\u{16}\u{3}\u{1}hello", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        drop(bed.raw(nonsense).await);
    }
    bed.client.status().await.expect("the daemon goes on");
}

#[tokio::test]
async fn without_a_daemon_the_client_says_how_to_start_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control.sock");
    let error = Client::new(&path).status().await.expect_err("nobody there");
    assert!(matches!(error, ClientError::NotRunning { .. }));
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let error = Client::new(&path).status().await.expect_err("nobody listens");
    assert!(matches!(error, ClientError::NotRunning { .. }));
    assert!(error.to_string().contains("start it with `ollama-guard run`"), "{error}");
    let long = directory.path().join("x".repeat(120));
    let error = Client::new(&long).status().await.expect_err("too long");
    assert!(matches!(error, ClientError::TooLong { .. }));
}

#[tokio::test]
async fn what_speaks_no_http_or_another_language_is_told_apart() {
    use std::io::{Read, Write};
    let directory = tempfile::tempdir().expect("a directory");
    for (number, (says, words)) in [
        ("hello\n", "ended the connection"),
        ("", "ended the connection"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", "not understood"),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\n[]", "502 Bad Gateway"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "ended the connection"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = directory.path().join(number.to_string());
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).expect("a request");
            stream.write_all(says.as_bytes()).expect("said");
        });
        let error = Client::new(&path).rules().await.expect_err("no rules").to_string();
        assert!(error.contains(words), "{says:?}: {error}");
        other.join().expect("no panic");
    }
}
