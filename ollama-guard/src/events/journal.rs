//! The last events, and every new one to any number of readers.
//!
//! A reader that is too slow loses events of its own and is told how many. It neither holds memory
//! beyond the shared buffer nor delays the writer or another reader.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use super::{event::Event, window::Bounds};

/// Events that are kept for readers to come, and that a reader may be behind.
pub const JOURNAL_EVENTS: usize = 1_024;

/// One line of the event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// An event.
    Event(#[serde(with = "shared")] Arc<Event>),
    /// Events that this reader was too slow for.
    Missed {
        /// How many.
        missed: u64,
    },
    /// Events that are not in the [`history`](super::history): too many came at a time, or it could
    /// not be written.
    Unwritten {
        /// How many.
        unwritten: u64,
    },
    /// Records of the history that can't be read and are passed over.
    Damaged {
        /// How many.
        damaged: u64,
    },
}

/// An event in JSON is the same whether it is shared or not.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::events::Event;

    pub(super) fn serialize<S: Serializer>(event: &Arc<Event>, to: S) -> Result<S::Ok, S::Error> {
        Event::serialize(event, to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Event>, D::Error> {
        Event::deserialize(from).map(Arc::new)
    }
}

/// Keeps the last events and hands out new ones.
#[derive(Debug)]
pub struct Journal {
    capacity: usize,
    recent: Mutex<Recent>,
    readers: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug)]
struct Recent {
    events: VecDeque<Arc<Event>>,
    /// The number of the next event.
    next: u64,
}

impl Recent {
    /// The number of the first of the events.
    fn first(&self) -> u64 {
        self.next - self.events.len() as u64
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new(JOURNAL_EVENTS)
    }
}

impl Journal {
    /// A journal that keeps `capacity` events (at least one), and lets a reader be as many behind
    /// (rounded up to a power of two).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self {
            capacity,
            recent: Mutex::new(Recent { events: VecDeque::with_capacity(capacity), next: 0 }),
            readers: broadcast::Sender::new(capacity),
        }
    }

    /// Adds an event. Never waits for a reader.
    pub fn push(&self, event: Event) {
        self.add(Arc::new(event));
    }

    /// As [`Journal::push`], and returns the event's number: the first is 0, the next 1 and so on.
    pub fn add(&self, event: Arc<Event>) -> u64 {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.events.len() == self.capacity {
            recent.events.pop_front();
        }
        recent.events.push_back(Arc::clone(&event));
        let number = recent.next;
        recent.next += 1;
        // Within the lock, so that a reader that subscribes sees each event exactly once. It fails
        // if there is no reader, which is fine.
        let _ = self.readers.send(event);
        number
    }

    /// The events of late and, behind them, every new one.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        Subscription {
            first: recent.first(),
            recent: recent.events.clone(),
            live: Some(self.readers.subscribe()),
        }
    }
}

/// One reader's view of a [`Journal`].
#[derive(Debug)]
pub struct Subscription {
    first: u64,
    recent: VecDeque<Arc<Event>>,
    live: Option<broadcast::Receiver<Arc<Event>>>,
}

impl Subscription {
    /// The number of the first event that was there at the time of the subscription; those before
    /// it are in the [`history`](super::history) only.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// Leaves out what is not within the window, of the events that were there at the time of the
    /// subscription.
    pub fn keep(&mut self, bounds: &Bounds) {
        self.recent.retain(|event| bounds.cover(event, true));
    }

    /// Ends behind the events that were there at the time of the subscription.
    pub fn leave_out_the_new(&mut self) {
        self.live = None;
    }

    /// The events that were there at the time of the subscription and were not read yet.
    pub fn into_recent(self) -> impl Iterator<Item = Arc<Event>> {
        self.recent.into_iter()
    }

    /// The next line; waits for one. `None` when the journal is gone. Nothing is lost if the
    /// future is dropped before it is done.
    pub async fn next(&mut self) -> Option<Line> {
        if let Some(event) = self.recent.pop_front() {
            return Some(Line::Event(event));
        }
        match self.live.as_mut()?.recv().await {
            Ok(event) => Some(Line::Event(event)),
            Err(RecvError::Lagged(missed)) => Some(Line::Missed { missed }),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next line, if there is one already.
    pub fn try_next(&mut self) -> Option<Line> {
        if let Some(event) = self.recent.pop_front() {
            return Some(Line::Event(event));
        }
        match self.live.as_mut()?.try_recv() {
            Ok(event) => Some(Line::Event(event)),
            Err(TryRecvError::Lagged(missed)) => Some(Line::Missed { missed }),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::events::event::Outcome;

    pub(in crate::events) fn event(ifindex: u32) -> Event {
        Event {
            time: Timestamp::UNIX_EPOCH,
            verdict: Outcome::Drop,
            reason: "not-listed".to_owned(),
            source: None,
            source_port: None,
            destination: None,
            destination_port: None,
            protocol: None,
            door: None,
            ifindex,
            hook: None,
            length: 60,
            count: 1,
            boot_ms: 0,
            marks: Vec::new(),
        }
    }

    fn number(line: Option<Line>) -> Option<u32> {
        match line {
            Some(Line::Event(event)) => Some(event.ifindex),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_new_reader_gets_the_recent_events_and_then_each_new_one_once() {
        let journal = Journal::new(4);
        (0..6).for_each(|n| journal.push(event(n)));
        let mut reader = journal.subscribe();
        (6..8).for_each(|n| journal.push(event(n)));
        for expected in 2..8 {
            assert_eq!(number(reader.next().await), Some(expected));
        }
        assert_eq!(reader.try_next(), None);
        assert_eq!(journal.subscribe().first(), 4);
        let recent: Vec<_> = journal.subscribe().into_recent().map(|e| e.ifindex).collect();
        assert_eq!(recent, [4, 5, 6, 7]);
        drop(journal);
        assert_eq!(reader.next().await, None);
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed_and_the_others_miss_nothing() {
        let journal = Journal::new(4);
        let (mut slow, mut quick) = (journal.subscribe(), journal.subscribe());
        for n in 0..10 {
            journal.push(event(n));
            assert_eq!(number(quick.next().await), Some(n));
        }
        assert_eq!(slow.next().await, Some(Line::Missed { missed: 6 }));
        for expected in 6..10 {
            assert_eq!(number(slow.next().await), Some(expected));
        }
    }

    #[test]
    fn lines_are_told_apart_in_json() {
        let missed = Line::Missed { missed: 3 };
        assert_eq!(serde_json::to_string(&missed).expect("json"), r#"{"missed":3}"#);
        let (unwritten, damaged) = (Line::Unwritten { unwritten: 4 }, Line::Damaged { damaged: 5 });
        for line in [missed, unwritten, damaged, Line::Event(Arc::new(event(1)))] {
            let text = serde_json::to_string(&line).expect("json");
            assert_eq!(serde_json::from_str::<Line>(&text).expect("a line"), line);
        }
    }
}
