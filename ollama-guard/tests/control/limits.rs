//! What clients can hold, and for how long.

use std::time::{Duration, Instant};

use tokio::{io::AsyncReadExt, time::timeout};

use crate::bed::{Bed, LONG, SLOW, answer, rule, until};

#[tokio::test]
async fn a_body_over_the_limit_is_refused_while_it_is_still_being_sent() {
    let bed = Bed::with(|limits| {
        limits.body_bytes = 1_000;
        limits.replace_bytes = 100_000;
    });
    for (path, limit) in
        [("/v1/rules/add", "1000"), ("/v1/rules/remove", "1000"), ("/v1/rules/replace", "100000")]
    {
        let (status, reply) = bed.ask("POST", path, &" ".repeat(3_000_000)).await;
        assert_eq!(status, 413, "{path}");
        assert!(reply["error"].as_str().is_some_and(|e| e.contains(limit)), "{reply}");
        // The same without saying how much will come.
        let chunk = format!("{:x}\r\n{}\r\n", 200_000, " ".repeat(200_000));
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             transfer-encoding: chunked\r\n\r\n"
        );
        let (status, _) = answer(bed.raw(&(head + &chunk + "0\r\n\r\n")).await).await;
        assert_eq!(status, 413, "{path}");
    }
    assert!(bed.backend.asked.lock().expect("the list").is_empty());
}

#[tokio::test]
async fn one_client_too_many_is_told_so_and_the_next_one_is_served() {
    let bed = Bed::with(|limits| {
        limits.connections = 4;
        limits.reserved = 2;
    });
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(bed.raw("GET /v1/st").await);
    }
    let (status, reply) = bed.ask("GET", "/v1/status", "").await;
    assert_eq!(status, 503);
    assert!(reply["error"].as_str().is_some_and(|e| e.starts_with("4 clients")), "{reply}");
    idle.pop();
    let mut served = false;
    for _ in 0..200 {
        served = bed.client.status().await.is_ok();
        if served {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(served);
}

#[tokio::test]
async fn a_storm_of_clients_ends_and_the_daemon_goes_on() {
    let bed = Bed::with(|limits| limits.connections = 10);
    let mut storm = Vec::new();
    for _ in 0..200 {
        // Beyond what is told so, clients are closed at once.
        storm.push(tokio::net::UnixStream::connect(&bed.path).await.expect("connected"));
    }
    drop(storm);
    let mut served = false;
    for _ in 0..500 {
        served = bed.client.status().await.is_ok();
        if served {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(served);
}

#[tokio::test]
async fn a_client_that_says_nothing_or_half_a_head_is_let_go() {
    let bed = Bed::with(|limits| limits.header_time = Duration::from_millis(100));
    let after_an_answer = "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n";
    for said in ["", "GET /v1/status HTTP/1.1\r\nhost: ", after_an_answer] {
        let mut stream = bed.raw(said).await;
        let mut rest = Vec::new();
        timeout(LONG, stream.read_to_end(&mut rest)).await.expect("closed").expect("read");
        assert_eq!(rest.starts_with(b"HTTP/1.1 200"), said == after_an_answer);
    }
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let bed = Bed::with(|limits| limits.body_time = Duration::from_millis(100));
    let head = "POST /v1/rules/add HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{\"effect\"";
    let (status, reply) = answer(bed.raw(head).await).await;
    assert_eq!(status, 408, "{reply}");
    assert!(bed.backend.asked.lock().expect("the list").is_empty());
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_let_go_with_its_place() {
    let bed = Bed::with(|limits| {
        limits.write_time = Duration::from_millis(300);
        limits.listings = 1;
        limits.reserved_places = 0;
    });
    *bed.backend.rules.lock().expect("the rules") = vec![rule("192.0.2.1"); 100_000];
    let _stuck = bed.raw("GET /v1/rules HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    let rules = bed.client.rules().await.expect("the place of the stuck one").rules;
    assert_eq!(rules.len(), 100_000);
    assert!(start.elapsed() < LONG);
}

#[tokio::test]
async fn a_client_that_leaves_within_its_request_changes_nothing() {
    let bed = Bed::new();
    let body = r#"{"effect":"allow","prefixes":["192.0.2.1"]}"#;
    for sent in 0..body.len() {
        let head =
            format!("POST /v1/rules/add HTTP/1.1\r\nhost: x\r\ncontent-length: {}", body.len());
        drop(bed.raw(&format!("{head}\r\n\r\n{}", &body[..sent])).await);
    }
    bed.client.status().await.expect("the daemon goes on");
    assert!(bed.backend.asked.lock().expect("the list").is_empty());
}

#[tokio::test]
async fn a_change_that_was_begun_is_finished_without_its_client_and_waited_for() {
    let mut bed = Bed::with(|limits| limits.grace_time = LONG);
    let body = format!(r#"{{"effect":"allow","prefixes":["{SLOW}"]}}"#);
    let head = format!("POST /v1/rules/add HTTP/1.1\r\nhost: x\r\ncontent-length: {}", body.len());
    let client = bed.raw(&format!("{head}\r\n\r\n{body}")).await;
    let backend = std::sync::Arc::clone(&bed.backend);
    until("the change begins", || !backend.asked.lock().expect("the list").is_empty()).await;
    drop(client);
    bed.begin_shutdown();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bed.backend.finished.lock().expect("the list").is_empty());
    bed.backend.slow_may_end.notify_one();
    bed.ended().await;
    assert_eq!(bed.backend.finished.lock().expect("the list").len(), 1);
}
