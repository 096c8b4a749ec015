//! The thread that keeps events on disk, and what is asked of it.
//!
//! A thread of its own, because a disk may take its time, or never answer: nobody waits for it. What it
//! can't take in time is counted as not written. A disk that is full or broken is told once, and tried
//! again.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    config::Bytes,
    events::{
        Bounds, Clock, Event, Line, Sources,
        history::{
            Begin, Entry, Extent, HistoryError, RECALLED_BYTES, Selector, Writer, boot_id,
            directory, read,
        },
    },
    status::HistoryStatus,
};

/// Events that may wait for the disk.
const WAITING: usize = 4_096;
/// How long events are gathered before they are written, and how many at most.
const GATHER: Duration = Duration::from_millis(100);
const GATHERED: usize = 512;
/// How long after a trouble the disk is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the thread may take to write what it has, for somebody who waits for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long reading the past may take before the first event is told.
const RECALL_PATIENCE: Duration = Duration::from_secs(5);
/// Lines that are read at a time for a client, and how many such batches may wait for it.
const BATCH: usize = 64;
const BATCHES: usize = 4;

/// The history of a running daemon.
pub(super) struct History {
    directory: PathBuf,
    begin: Arc<Begin>,
    sender: SyncSender<Message>,
    /// Events that found no place among those that wait.
    lost: Arc<AtomicU64>,
    status: Arc<Mutex<HistoryStatus>>,
}

enum Message {
    Event(u64, Arc<Event>),
    Keep(Bytes),
    /// Everything so far is to be written; the answer is how far.
    Flush(oneshot::Sender<Option<Extent>>),
}

impl History {
    /// Starts the thread. Whatever fails costs the history, and is told.
    pub(super) fn start(state_dir: &Path, keep: Bytes, clock: Option<Clock>) -> Self {
        let begin = begin(clock);
        let (sender, messages) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let status = Arc::new(Mutex::new(HistoryStatus { keep: keep.0, ..Default::default() }));
        let keeper = Keeper {
            writer: Writer::new(state_dir, keep.0, begin.clone(), Instant::now()),
            lost: Arc::clone(&lost),
            status: Arc::clone(&status),
            retry: None,
        };
        let thread = thread::Builder::new().name("events-history".into());
        if let Err(error) = thread.spawn(move || keeper.run(&messages)) {
            tracing::error!(%error, "events are not kept: cannot start the thread for it");
            lock(&status).trouble = Some(format!("its thread cannot be started: {error}"));
        }
        Self { directory: directory(state_dir), begin: Arc::new(begin), sender, lost, status }
    }

    /// Keeps an event. Never waits.
    pub(super) fn keep(&self, number: u64, event: Arc<Event>) {
        let Err(error) = self.sender.try_send(Message::Event(number, event)) else { return };
        self.lost.fetch_add(1, Ordering::Relaxed);
        if matches!(error, TrySendError::Disconnected(_)) {
            let mut status = lock(&self.status);
            status.unwritten += 1;
            if status.trouble.is_none() {
                let trouble = "the thread that keeps them has ended: restart the daemon";
                tracing::error!("events are not kept any more: {trouble}");
                status.trouble = Some(trouble.into());
            }
        }
    }

    /// From now on so much is kept. Returns whether that was taken: never waits.
    pub(super) fn set_keep(&self, keep: Bytes) -> bool {
        // A thread that is gone does not come back.
        !matches!(self.sender.try_send(Message::Keep(keep)), Err(TrySendError::Full(_)))
    }

    pub(super) fn status(&self) -> HistoryStatus {
        lock(&self.status).clone()
    }

    /// Has everything so far written. `None` if that can't be told.
    pub(super) async fn flush(&self) -> Option<Extent> {
        let (answer, written) = oneshot::channel();
        self.sender.try_send(Message::Flush(answer)).ok()?;
        timeout(PATIENCE, written).await.ok()?.ok()?
    }

    /// Who has knocked before, as far as the files reach.
    pub(super) async fn sources(&self) -> Sources {
        let directory = self.directory.clone();
        let recalled = spawn_blocking(move || {
            let mut sources = Sources::default();
            let read = read(&directory, RECALLED_BYTES, None, |entry| {
                if let Entry::Event { event, .. } = entry {
                    sources.recall(&event);
                }
                ControlFlow::Continue(())
            });
            read.map(|()| sources)
        });
        match timeout(RECALL_PATIENCE, recalled).await {
            Ok(Ok(Ok(sources))) => sources,
            Ok(Ok(Err(error))) => {
                tracing::warn!("every source will be first seen again: {error}");
                Sources::default()
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("every source will be first seen again: the disk does not answer");
                Sources::default()
            }
        }
    }

    /// The events within the window that are not in memory any more: those before the number
    /// `before` of this daemon's journal, and those of earlier daemons.
    pub(super) fn past(self: Arc<Self>, bounds: Bounds, before: u64) -> mpsc::Receiver<Vec<Line>> {
        let (sender, receiver) = mpsc::channel(BATCHES);
        tokio::spawn(async move {
            let extent = self.flush().await;
            // Whoever does not fetch it in time goes away, and then this ends.
            let reading = spawn_blocking(move || self.read_past(&bounds, before, extent, &sender));
            if let Ok(Err(error)) = reading.await {
                tracing::error!("{error}");
            }
        });
        receiver
    }

    fn read_past(
        &self,
        bounds: &Bounds,
        before: u64,
        extent: Option<Extent>,
        sender: &mpsc::Sender<Vec<Line>>,
    ) -> Result<(), HistoryError> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut selector = Selector::new(*bounds, self.begin.boot_id.clone());
        let read = read(&self.directory, u64::MAX, extent, |entry| {
            // Those are in memory, all of them, whatever was written.
            if let Entry::Event { begin: Some(begin), number, .. } = &entry
                && *begin == self.begin
                && *number >= before
            {
                return ControlFlow::Break(());
            }
            selector.take(entry, &mut batch);
            if batch.len() < BATCH {
                return ControlFlow::Continue(());
            }
            match sender.blocking_send(std::mem::take(&mut batch)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        });
        selector.finish(&mut batch);
        if read.is_err() {
            batch.push(Line::Damaged { damaged: 1 });
        }
        // A client that is gone needs none.
        let _ = sender.blocking_send(batch);
        read
    }
}

/// Who writes. Without clocks or the kernel's name for its start, times are the wall clock's alone.
fn begin(clock: Option<Clock>) -> Begin {
    Begin {
        boot_id: boot_id(),
        boot_ms: clock.map_or(0, |clock| clock.boot_ms()),
        time: jiff::Timestamp::now(),
    }
}

/// The thread.
struct Keeper {
    writer: Writer,
    lost: Arc<AtomicU64>,
    status: Arc<Mutex<HistoryStatus>>,
    /// When the disk is tried again.
    retry: Option<Instant>,
}

impl Keeper {
    fn run(mut self, messages: &Receiver<Message>) {
        let opened = self.writer.open();
        self.note(opened);
        let mut events = Vec::new();
        while let Ok(message) = messages.recv() {
            let mut next = Some(message);
            let deadline = Instant::now() + GATHER;
            while let Some(message) = next {
                match message {
                    Message::Event(number, event) => events.push((number, event)),
                    Message::Keep(keep) => {
                        self.write(&mut events);
                        let set = self.writer.set_keep(keep.0);
                        self.note(set);
                    }
                    Message::Flush(answer) => {
                        self.write(&mut events);
                        // Whoever does not wait any more needs no answer.
                        let _ = answer.send(self.writer.extent());
                    }
                }
                if events.len() >= GATHERED {
                    break;
                }
                // In time, or else it is written what there is.
                let left = deadline.saturating_duration_since(Instant::now());
                next = messages.recv_timeout(left).ok();
            }
            self.write(&mut events);
        }
    }

    fn write(&mut self, events: &mut Vec<(u64, Arc<Event>)>) {
        let now = Instant::now();
        self.writer.give_up(self.lost.swap(0, Ordering::Relaxed));
        if events.is_empty() {
            return;
        }
        if self.retry.is_some_and(|retry| now < retry) {
            self.writer.give_up(events.len() as u64);
            lock(&self.status).unwritten = self.writer.given_up();
        } else {
            let appended = self.writer.append(events, now);
            self.note(appended);
        }
        events.clear();
    }

    fn note(&mut self, outcome: Result<(), HistoryError>) {
        let mut status = lock(&self.status);
        match (&outcome, &status.trouble) {
            (Err(error), None) => tracing::error!(
                "{error}: events are not kept until that works again, and are still streamed; the \
                 filter does not depend on it"
            ),
            (Ok(()), Some(_)) => tracing::info!("events are kept again"),
            _ => {}
        }
        self.retry = outcome.is_err().then(|| Instant::now() + AGAIN);
        *status = HistoryStatus {
            keep: self.writer.keep(),
            bytes: self.writer.bytes(),
            oldest: self.writer.oldest(),
            unwritten: self.writer.given_up(),
            trouble: outcome.err().map(|error| error.to_string()),
        };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
