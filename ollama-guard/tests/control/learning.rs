//! A session of learning lasts as long as somebody listens.

use std::time::Duration;

use ollama_guard::control::{
    EventLines,
    learning::{LearnLine, LearnRequest, Progress},
};
use tokio::{sync::mpsc, time::timeout};

use crate::bed::{Bed, LONG};

const REQUEST: LearnRequest = LearnRequest { seconds: 60, sources: 100 };
const PROGRESS: LearnLine =
    LearnLine::Progress(Progress { seconds_left: 9, sources: 1, packets: 2, homeless: 0 });

/// A client, and what the backend sends to it.
async fn begin(bed: &Bed) -> (EventLines, mpsc::Sender<LearnLine>) {
    let lines = bed.client.learn(&REQUEST).await.expect("lines");
    let sender = bed.backend.learning.lock().expect("the lines").as_ref().expect("asked").0.clone();
    (lines, sender)
}

async fn next(lines: &mut EventLines) -> Option<LearnLine> {
    timeout(LONG, lines.next_of()).await.expect("in time").expect("a line")
}

#[tokio::test]
async fn lines_arrive_as_they_are_sent_until_the_backend_ends_them() {
    let bed = Bed::new();
    let (mut lines, sender) = begin(&bed).await;
    sender.send(PROGRESS).await.expect("somebody listens");
    assert_eq!(next(&mut lines).await, Some(PROGRESS));
    let failed = LearnLine::Failed("no".to_owned());
    sender.send(failed.clone()).await.expect("somebody listens");
    drop(sender);
    *bed.backend.learning.lock().expect("the lines") = None;
    assert_eq!(next(&mut lines).await, Some(failed));
    assert_eq!(next(&mut lines).await, None);
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed_at_once_though_nothing_is_sent() {
    let bed = Bed::new();
    let (lines, sender) = begin(&bed).await;
    drop(lines);
    timeout(LONG, sender.closed()).await.expect("noticed");
}

#[tokio::test]
async fn the_end_of_the_server_ends_it_and_waits_for_what_was_begun() {
    let mut bed = Bed::with(|limits| limits.grace_time = Duration::from_secs(20));
    let (mut lines, sender) = begin(&bed).await;
    bed.begin_shutdown();
    assert_eq!(next(&mut lines).await, None);
    timeout(LONG, sender.closed()).await.expect("told to end");
    // `ended` panics where it is not in time.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bed.is_running(), "it did not wait");
    *bed.backend.learning.lock().expect("the lines") = None;
    bed.ended().await;
}
