//! Folds the repeats of a source into counts.
//!
//! The first drop of a source is emitted at once, its repeats at most once a second as one record
//! with a count. No count is ever lost: whatever order records and flushes come in, what was
//! emitted plus what is still folded is what came in.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use ollama_guard_common::abi::DropEvent;

use super::record::Record;

/// How often the repeats of one source are emitted at most.
pub const FOLD_TIME: Duration = Duration::from_secs(1);
/// Sources that are remembered at a time.
pub const FOLD_SOURCES: usize = 4_096;

/// A record and how many packets it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// The last of them.
    pub record: Record,
    /// How many, at least one.
    pub count: u64,
}

/// What makes a drop a repeat of another one. The source port is not part of it: a client that
/// retries takes a new one each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Knock {
    source: [u8; 16],
    family: u8,
    destination_port: u16,
    protocol: u8,
    reason: u8,
    mode: u8,
    ifindex: u32,
}

impl Knock {
    const fn of(drop: &DropEvent) -> Self {
        Self {
            source: drop.source,
            family: drop.family,
            destination_port: drop.destination_port,
            protocol: drop.protocol,
            reason: drop.reason,
            mode: drop.mode,
            ifindex: drop.ifindex,
        }
    }
}

/// Repeats since the last emission: how many, and the last one of them.
type Repeats = Option<Folded>;

/// Folds repeats. It has no clock: time is passed in, and must not run backwards.
#[derive(Debug)]
pub struct Folder {
    capacity: usize,
    repeats: HashMap<Knock, Repeats>,
    /// Every knock of `repeats` exactly once, with the time of its last emission, oldest first.
    emitted: VecDeque<(Instant, Knock)>,
}

impl Default for Folder {
    fn default() -> Self {
        Self::new(FOLD_SOURCES)
    }
}

impl Folder {
    /// A folder that remembers up to `capacity` sources (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), repeats: HashMap::new(), emitted: VecDeque::new() }
    }

    /// Takes a record in, and returns what is to be emitted now: the record itself if it is the
    /// first of its source, and whatever is due.
    #[must_use]
    pub fn push(&mut self, record: Record, now: Instant) -> Vec<Folded> {
        let mut due = self.flush(now);
        let knock = Knock::of(&record.drop);
        if let Some(repeats) = self.repeats.get_mut(&knock) {
            let count = repeats.map_or(0, |earlier| earlier.count) + 1;
            *repeats = Some(Folded { record, count });
            return due;
        }
        if self.repeats.len() >= self.capacity {
            due.extend(self.evict());
        }
        self.repeats.insert(knock, None);
        self.emitted.push_back((now, knock));
        due.push(Folded { record, count: 1 });
        due
    }

    /// Returns the repeats of every source whose last emission is a second ago or more, oldest
    /// first, and forgets the sources that were silent since.
    #[must_use]
    pub fn flush(&mut self, now: Instant) -> Vec<Folded> {
        let mut due = Vec::new();
        while let Some(&(emitted, knock)) = self.emitted.front()
            && now.saturating_duration_since(emitted) >= FOLD_TIME
        {
            self.emitted.pop_front();
            if let Some(repeats) = self.repeats.get_mut(&knock).and_then(Option::take) {
                due.push(repeats);
                self.emitted.push_back((now, knock));
            } else {
                self.repeats.remove(&knock);
            }
        }
        due
    }

    /// Returns everything that is still folded, for when the daemon ends.
    #[must_use]
    pub fn drain(&mut self) -> Vec<Folded> {
        let emitted = std::mem::take(&mut self.emitted);
        let mut repeats = std::mem::take(&mut self.repeats);
        emitted.iter().filter_map(|(_, knock)| repeats.remove(knock).flatten()).collect()
    }

    /// When the next [`Folder::flush`] has something to do, if nothing comes in before.
    #[must_use]
    pub fn next_flush(&self) -> Option<Instant> {
        self.emitted.front().map(|(emitted, _)| *emitted + FOLD_TIME)
    }

    /// Forgets the source whose last emission is the oldest, and returns its repeats.
    fn evict(&mut self) -> Repeats {
        let (_, knock) = self.emitted.pop_front()?;
        self.repeats.remove(&knock).flatten()
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn record(source: u8) -> Record {
        let mut drop = DropEvent::zeroed();
        drop.family = 4;
        drop.source[3] = source;
        drop.destination_port = 11_434;
        Record { drop, time: Timestamp::UNIX_EPOCH }
    }

    fn counts(folded: &[Folded]) -> Vec<(u8, u64)> {
        folded.iter().map(|one| (one.record.drop.source[3], one.count)).collect()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_drop_is_emitted_at_once_and_repeats_once_a_second() {
        let (mut folder, start) = (Folder::default(), Instant::now());
        assert_eq!(counts(&folder.push(record(1), start)), [(1, 1)]);
        assert_eq!(folder.next_flush(), Some(start + FOLD_TIME));
        for _ in 0..5 {
            assert!(folder.push(record(1), start + 10 * MS).is_empty());
        }
        assert!(folder.flush(start + 999 * MS).is_empty());
        assert_eq!(counts(&folder.flush(start + 1000 * MS)), [(1, 5)]);
        assert!(folder.push(record(1), start + 1500 * MS).is_empty());
        assert!(folder.flush(start + 1999 * MS).is_empty());
        assert_eq!(counts(&folder.flush(start + 2000 * MS)), [(1, 1)]);
    }

    #[test]
    fn a_source_that_was_silent_for_a_second_is_new_again() {
        let (mut folder, start) = (Folder::default(), Instant::now());
        assert_eq!(counts(&folder.push(record(1), start)), [(1, 1)]);
        assert_eq!(counts(&folder.push(record(1), start + FOLD_TIME)), [(1, 1)]);
        assert!(folder.flush(start + 5 * FOLD_TIME).is_empty());
        assert_eq!(folder.next_flush(), None);
    }

    #[test]
    fn another_port_reason_door_or_verdict_is_no_repeat() {
        let (mut folder, start) = (Folder::default(), Instant::now());
        let changes: [fn(&mut DropEvent); 7] = [
            |_| (),
            |drop| drop.destination_port = 80,
            |drop| drop.reason = 3,
            |drop| drop.ifindex = 2,
            |drop| drop.mode = 1,
            |drop| drop.protocol = 17,
            |drop| drop.family = 6,
        ];
        for change in changes {
            let mut different = record(1);
            change(&mut different.drop);
            assert_eq!(folder.push(different, start).len(), 1);
        }
        let mut retry = record(1);
        retry.drop.source_port = 50_000;
        retry.drop.length = 60;
        assert!(folder.push(retry, start).is_empty());
    }

    #[test]
    fn a_full_table_flushes_and_forgets_the_oldest() {
        let (mut folder, start) = (Folder::new(2), Instant::now());
        assert_eq!(folder.push(record(1), start).len(), 1);
        assert_eq!(folder.push(record(2), start + MS).len(), 1);
        assert!(folder.push(record(1), start + 2 * MS).is_empty());
        assert_eq!(counts(&folder.push(record(3), start + 3 * MS)), [(1, 1), (3, 1)]);
        assert_eq!(counts(&folder.push(record(4), start + 4 * MS)), [(4, 1)]);
        assert!(folder.push(record(3), start + 5 * MS).is_empty());
        assert_eq!(folder.repeats.len(), 2);
    }

    #[test]
    fn a_flood_of_different_sources_costs_a_bounded_table() {
        let (mut folder, start) = (Folder::new(16), Instant::now());
        for source in 0..=255 {
            assert_eq!(folder.push(record(source), start).len(), 1);
        }
        assert_eq!((folder.repeats.len(), folder.emitted.len()), (16, 16));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u8),
        Flush,
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0u8..8).prop_map(Step::Push),
            1 => Just(Step::Flush),
            2 => (0u64..1500).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn no_count_is_lost_and_no_source_is_emitted_too_often(
            steps in steps(),
            capacity in 0usize..10,
        ) {
            let (mut folder, mut now) = (Folder::new(capacity), Instant::now());
            let (mut pushed, mut emitted) = ([0u64; 8], [0u64; 8]);
            let mut last = [None; 8];
            for step in steps {
                let out = match step {
                    Step::Push(source) => {
                        pushed[source as usize] += 1;
                        folder.push(record(source), now)
                    }
                    Step::Flush => folder.flush(now),
                    Step::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        continue;
                    }
                };
                for folded in out {
                    let source = folded.record.drop.source[3] as usize;
                    prop_assert!(folded.count >= 1);
                    emitted[source] += folded.count;
                    // With room for all sources nothing is evicted, and the promise is exact.
                    if capacity >= 8 {
                        if let Some(last) = last[source] {
                            prop_assert!(now.duration_since(last) >= FOLD_TIME);
                        }
                        last[source] = Some(now);
                    }
                }
                prop_assert!(folder.repeats.len() <= capacity.max(1));
                prop_assert_eq!(folder.repeats.len(), folder.emitted.len());
            }
            for folded in folder.drain() {
                emitted[folded.record.drop.source[3] as usize] += folded.count;
            }
            prop_assert_eq!(pushed, emitted);
            prop_assert!(folder.drain().is_empty());
        }
    }
}
