//! From the ring to the journal, and the refill of the budget.

use std::{collections::HashMap, future::Future, pin::pin, sync::Arc, time::Duration};

use nix::net::if_::if_nameindex;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{history::History, inner::Hint, reload::Settings};
use crate::{
    config::Bytes,
    dataplane::{DataplaneError, ring::EventRing},
    events::{Clock, Event, Folded, Folder, Journal, Record, Sources},
    guard::Handle,
};

/// How often the budget is refilled and folded events are handed out.
const TICK: Duration = Duration::from_millis(100);

/// The reader of the ring.
pub(super) struct Reader {
    ring: EventRing,
    sink: Sink,
    handle: Handle,
    settings: watch::Receiver<Settings>,
    /// How much the history was told to keep.
    keep: Bytes,
}

/// Everything behind the ring.
struct Sink {
    journal: Arc<Journal>,
    history: Arc<History>,
    sources: Sources,
    folder: Folder,
    names: Names,
    hint: Hint,
    /// Records that could not be understood since the last tick: told once, however many.
    garbled: u64,
}

/// Interface names, looked up again when an unknown number comes along, at most once a tick.
#[derive(Default)]
struct Names {
    known: HashMap<u32, String>,
    is_fresh: bool,
}

impl Reader {
    pub(super) fn new(
        ring: EventRing,
        journal: Arc<Journal>,
        history: Arc<History>,
        handle: Handle,
        settings: watch::Receiver<Settings>,
    ) -> Self {
        let sink = Sink {
            journal,
            history,
            sources: Sources::default(),
            folder: Folder::default(),
            names: Names::default(),
            hint: Hint::default(),
            garbled: 0,
        };
        let keep = settings.borrow().events_keep;
        Self { ring, sink, handle, settings, keep }
    }

    /// Reads until `stop` is ready, and then what is left.
    pub(super) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refilled = Instant::now();
        // Meanwhile events wait in the ring.
        self.sink.sources = self.sink.history.sources().await;
        loop {
            let Self { ring, sink, .. } = &mut self;
            tokio::select! {
                () = &mut stop => break,
                result = drain(ring, sink) => {
                    if let Err(error) = result {
                        // Filter and counters go on; the books show what is not read.
                        tracing::error!(%error, "drop events can't be read any more");
                        return;
                    }
                }
                now = tick.tick() => {
                    sink.flush(now);
                    let elapsed = now.duration_since(refilled).as_secs_f64();
                    refilled = now;
                    // A guard that has stopped is followed by `stop`.
                    let (per_second, keep) = {
                        let settings = self.settings.borrow();
                        (settings.events_per_second, settings.events_keep)
                    };
                    let _ = self.handle.refill(per_second, elapsed);
                    if keep != self.keep && self.sink.history.set_keep(keep) {
                        self.keep = keep;
                    }
                }
            }
        }
        let clock = Clock::now();
        self.ring.drain_now(|bytes| self.sink.take(bytes, clock.as_ref().ok()));
        for folded in self.sink.folder.drain() {
            self.sink.publish(&folded);
        }
    }
}

async fn drain(ring: &mut EventRing, sink: &mut Sink) -> Result<(), DataplaneError> {
    let mut clock = None;
    ring.drain(|bytes| {
        // Read once a batch, and after the wait.
        let clock = clock.get_or_insert_with(|| Clock::now().ok());
        sink.take(bytes, clock.as_ref());
    })
    .await
}

impl Sink {
    fn take(&mut self, bytes: &[u8], clock: Option<&Clock>) {
        let Some(clock) = clock else {
            tracing::error!("the clock can't be read: an event is given up");
            return;
        };
        match Record::decode(bytes, clock) {
            Ok(record) => {
                for folded in self.folder.push(record, std::time::Instant::now()) {
                    self.publish(&folded);
                }
            }
            Err(error) => {
                if self.garbled == 0 {
                    tracing::error!(%error, "an event can't be read");
                }
                self.garbled += 1;
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        self.names.is_fresh = false;
        if self.garbled > 1 {
            tracing::error!("{} events in a row can't be read", self.garbled);
        }
        self.garbled = 0;
        for folded in self.folder.flush(now.into_std()) {
            self.publish(&folded);
        }
    }

    fn publish(&mut self, folded: &Folded) {
        let mut event = Event::new(folded, |ifindex| self.names.name(ifindex));
        event.marks = self.sources.mark(&event);
        self.hint.see(&event);
        let event = Arc::new(event);
        let number = self.journal.add(Arc::clone(&event));
        self.history.keep(number, event);
    }
}

impl Names {
    fn name(&mut self, ifindex: u32) -> Option<String> {
        if !self.known.contains_key(&ifindex) && !self.is_fresh {
            self.is_fresh = true;
            match if_nameindex() {
                Ok(interfaces) => {
                    self.known = interfaces
                        .iter()
                        .map(|one| (one.index(), one.name().to_string_lossy().into_owned()))
                        .collect();
                }
                Err(error) => tracing::warn!(%error, "cannot list interface names"),
            }
        }
        self.known.get(&ifindex).cloned()
    }
}
