//! Streams of events.

use std::{sync::Arc, time::Duration};

use ollama_guard::{
    control::{ClientError, EventLines},
    events::{Clock, Event, Line, Window},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::bed::{Bed, LONG, event};

const FOLLOW: &str = "GET /v1/events?follow=true HTTP/1.1\r\nhost: x\r\n\r\n";

async fn next(lines: &mut EventLines) -> Option<u32> {
    let line = timeout(LONG, lines.next()).await.expect("in time").expect("a line");
    match line {
        Some(Line::Event(event)) => Some(event.ifindex),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

#[tokio::test]
async fn recent_events_end_and_a_follower_gets_each_new_one_once() {
    let bed = Bed::new();
    (0..3).for_each(|n| bed.backend.journal.push(event(n)));
    let mut recent = bed.client.events(false).await.expect("events");
    let mut live = bed.client.events(true).await.expect("events");
    (3..5).for_each(|n| bed.backend.journal.push(event(n)));
    for n in 0..3 {
        assert_eq!(next(&mut recent).await, Some(n));
    }
    assert_eq!(next(&mut recent).await, None);
    for n in 0..5 {
        assert_eq!(next(&mut live).await, Some(n));
    }
    assert!(timeout(Duration::from_millis(50), live.next_line()).await.is_err());
    bed.backend.journal.push(event(5));
    let line = live.next_line().await.expect("a line").expect("a line");
    assert_eq!(line, serde_json::to_string(&event(5)).expect("json"));
}

#[tokio::test]
async fn no_event_yet_is_an_empty_list_and_an_open_stream() {
    let bed = Bed::new();
    assert_eq!(next(&mut bed.client.events(false).await.expect("events")).await, None);
    let mut live = bed.client.events(true).await.expect("an open stream");
    bed.backend.journal.push(event(1));
    assert_eq!(next(&mut live).await, Some(1));
}

/// An event so many seconds ago.
fn ago(number: u32, seconds: u64) -> Event {
    let now = Clock::now().expect("a clock");
    Event { boot_ms: now.boot_ms() - seconds * 1000, ..event(number) }
}

fn window(since: &str, until: Option<&str>) -> Window {
    let moment = |text: &str| text.parse().expect("a moment");
    Window { since: Some(moment(since)), until: until.map(moment) }
}

#[tokio::test]
async fn the_past_comes_before_what_is_in_memory_and_each_event_once() {
    let bed = Bed::new();
    *bed.backend.past.lock().expect("the list") = vec![ago(1, 90), ago(2, 50), ago(3, 40)];
    for (number, seconds) in [(4, 30), (5, 70), (6, 20)] {
        bed.backend.journal.push(ago(number, seconds));
    }
    let minute = window("60s", None);
    let mut lines = bed.client.events_within(&minute, true).await.expect("events");
    for n in [2, 3, 4, 6] {
        assert_eq!(next(&mut lines).await, Some(n));
    }
    bed.backend.journal.push(ago(7, 0));
    assert_eq!(next(&mut lines).await, Some(7));
    assert_eq!(*bed.backend.before.lock().expect("the number"), Some(0));

    let part = window("60s", Some("25s"));
    let mut lines = bed.client.events_within(&part, false).await.expect("events");
    for n in [Some(2), Some(3), Some(4), None] {
        assert_eq!(next(&mut lines).await, n);
    }
}

#[tokio::test]
async fn what_memory_has_lost_is_asked_of_the_past() {
    let bed = Bed::new();
    (0..1030).for_each(|n| bed.backend.journal.push(ago(n, 5)));
    let mut lines = bed.client.events_within(&window("1h", None), false).await.expect("events");
    let mut count = 0;
    while next(&mut lines).await.is_some() {
        count += 1;
    }
    assert_eq!((count, *bed.backend.before.lock().expect("the number")), (1024, Some(6)));
}

/// Reads the lines of a raw connection until the event with this number.
async fn drain(stream: UnixStream, last: u32) -> (u64, u64) {
    let mut lines = BufReader::new(stream).lines();
    let (mut events, mut missed) = (0, 0);
    loop {
        let line = timeout(LONG, lines.next_line()).await.expect("in time");
        let line = line.expect("readable").expect("not the end");
        match serde_json::from_str(&line) {
            Ok(Line::Event(event)) => {
                events += 1;
                if event.ifindex == last {
                    return (events, missed);
                }
            }
            Ok(Line::Missed { missed: more }) => missed += more,
            Ok(other) => panic!("{other:?}"),
            // The head, and the sizes of the chunks.
            Err(_) => assert!(!line.starts_with('{'), "{line}"),
        }
    }
}

#[tokio::test]
async fn a_stuck_reader_loses_its_own_events_and_is_told_and_the_other_gets_all() {
    const EVENTS: u32 = 30_000;
    let bed = Bed::with(|limits| limits.write_time = Duration::from_millis(200));
    let mut stuck = bed.raw(FOLLOW).await;
    // With the first byte of its answer it is a reader; from then on it reads nothing.
    stuck.read_u8().await.expect("an answer");
    let mut quick = bed.client.events(true).await.expect("events");
    for n in 0..EVENTS {
        bed.backend.journal.push(event(n));
        if n % 200 == 199 {
            for expected in n - 199..=n {
                assert_eq!(next(&mut quick).await, Some(expected));
            }
        }
    }
    // Longer than an answer may make no progress: a stream may.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let reading = tokio::spawn(drain(stuck, EVENTS));
    bed.backend.journal.push(event(EVENTS));
    let (events, missed) = reading.await.expect("no panic");
    assert_eq!(events + missed, u64::from(EVENTS) + 1);
    assert!(events < 10_000, "{events} events were kept for a reader that did not read");
}

#[tokio::test]
async fn one_reader_too_many_is_told_so_until_one_leaves() {
    let bed = Bed::with(|limits| {
        limits.event_readers = 2;
        limits.reserved_places = 0;
    });
    let mut readers = Vec::new();
    for _ in 0..2 {
        readers.push(bed.client.events(true).await.expect("events"));
    }
    match bed.client.events(true).await {
        Err(ClientError::Refused { status: 503, message }) => {
            assert!(message.starts_with("2 clients follow"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    bed.client.events(false).await.expect("the recent ones are always there");
    readers.pop();
    let mut served = false;
    for _ in 0..200 {
        served = bed.client.events(true).await.is_ok();
        if served {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(served, "a reader that left kept its place");
}

#[tokio::test]
async fn the_end_of_the_server_ends_the_streams_after_the_last_event() {
    let mut bed = Bed::new();
    let mut live = bed.client.events(true).await.expect("events");
    let mut idle = bed.client.events(true).await.expect("events");
    bed.backend.journal.push(event(1));
    bed.begin_shutdown();
    assert_eq!(next(&mut live).await, Some(1));
    assert_eq!(next(&mut live).await, None);
    assert_eq!(next(&mut idle).await, Some(1));
    assert_eq!(next(&mut idle).await, None);
    bed.ended().await;
    assert!(!bed.path.exists());
    let error = bed.client.status().await.expect_err("nobody there");
    assert!(matches!(error, ClientError::NotRunning { .. }));
}

#[tokio::test]
async fn a_stuck_reader_does_not_keep_the_server_from_ending() {
    let mut bed = Bed::with(|limits| limits.grace_time = Duration::from_millis(200));
    let backend = Arc::clone(&bed.backend);
    let mut stuck = bed.raw(FOLLOW).await;
    stuck.read_u8().await.expect("an answer");
    let _silent = bed.raw("GET /v1").await;
    (0..20_000).for_each(|n| backend.journal.push(event(n)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    bed.begin_shutdown();
    bed.ended().await;
}
