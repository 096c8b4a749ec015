//! What the daemon says, from its status and its stream of events, for as long as somebody listens.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::sleep,
};

use super::model::Update;
use crate::{
    control::{Client, ClientError},
    events::{Line, Moment, Window},
    status::StatusReport,
};

/// Updates that may wait.
const WAITING: usize = 1_024;
/// How long after a failure the daemon is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Asking takes at most this part of the daemon's time.
const PART: u32 = 5;

/// Asks from now on. Ends when nobody listens any more.
pub(super) fn start(socket: PathBuf, interval: Duration, window: Window) -> Receiver<Update> {
    let (sender, receiver) = channel(WAITING);
    let client = Client::new(&socket);
    tokio::spawn(ask(client.clone(), interval, sender.clone()));
    tokio::spawn(listen(client, window, sender));
    receiver
}

/// The daemon's status.
pub(super) async fn status(client: &Client) -> Result<StatusReport, ClientError> {
    client.get("/v1/status").await
}

async fn ask(client: Client, interval: Duration, sender: Sender<Update>) {
    loop {
        let begun = Instant::now();
        let (update, pause) = match status(&client).await {
            // With a million rules an answer takes its time.
            Ok(report) => (
                Update::Status(Box::new(report), Instant::now()),
                interval.max(begun.elapsed() * PART).saturating_sub(begun.elapsed()),
            ),
            Err(error) => (Update::Lost(error.to_string()), AGAIN),
        };
        if sender.send(update).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

/// Follows the events; whenever the stream ends, again from behind the last one that came.
async fn listen(client: Client, mut window: Window, sender: Sender<Update>) {
    loop {
        // Why it does not work is told by whoever asks for the status.
        if let Ok(mut lines) = client.events_within(&window, true).await {
            while let Ok(Some(line)) = lines.next().await {
                if let Line::Event(event) = &line {
                    window.since = Some(behind(event.time));
                }
                if sender.send(Update::Line(line)).await.is_err() {
                    return;
                }
            }
        }
        if sender.is_closed() {
            return;
        }
        sleep(AGAIN).await;
    }
}

/// Times of events are in milliseconds.
fn behind(time: Timestamp) -> Moment {
    Moment::At(time.checked_add(SignedDuration::from_millis(1)).unwrap_or(time))
}
