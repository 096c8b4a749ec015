//! One line of a file: a checksum, a space and a record in JSON.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use crate::events::Event;

/// Bytes of the longest line that is believed.
pub(super) const LINE_BYTES: usize = 16 * 1024;
/// Letters of a checksum.
const SUM: usize = 8;

/// Where a daemon begins to write, or goes on in another file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The start of the host, by the kernel's name for it (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// When the daemon began, in milliseconds since then.
    pub boot_ms: u64,
    /// The same by the wall clock.
    pub time: Timestamp,
}

/// What a line holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Record {
    Begin(Begin),
    Event(Numbered),
    /// So many events were not written here.
    Unwritten(u64),
}

/// An event and its number in its daemon's [`Journal`](crate::events::Journal).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Numbered {
    pub(super) number: u64,
    #[serde(with = "shared")]
    pub(super) event: Arc<Event>,
}

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

impl Record {
    /// The whole line, with its end.
    pub(super) fn line(&self) -> serde_json::Result<Vec<u8>> {
        let json = serde_json::to_vec(self)?;
        let mut line = format!("{:08x} ", checksum(&json)).into_bytes();
        line.extend_from_slice(&json);
        line.push(b'\n');
        Ok(line)
    }

    /// Reads a line without its end. `None` if it is not as it was written.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let (sum, json) = line.split_at_checked(SUM)?;
        let json = json.strip_prefix(b" ")?;
        let sum = u32::from_str_radix(str::from_utf8(sum).ok()?, 16).ok()?;
        if sum != checksum(json) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

/// It finds damage, and is no proof of who wrote it: the files are the daemon's own.
fn checksum(json: &[u8]) -> u32 {
    SipHasher13::new().hash(json) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::event::tests::knock;

    fn record() -> Record {
        // Times are written in milliseconds.
        let event = Event { time: Timestamp::UNIX_EPOCH, ..knock("192.0.2.1") };
        Record::Event(Numbered { number: 7, event: Arc::new(event) })
    }

    #[test]
    fn a_line_is_read_back_and_one_changed_letter_is_damage() {
        let line = record().line().unwrap();
        let (end, line) = line.split_last().unwrap();
        assert_eq!(*end, b'\n');
        assert!(!line.contains(&b'\n'));
        assert_eq!(Record::read(line), Some(record()));
        for at in 0..line.len() {
            let mut changed = line.to_vec();
            changed[at] ^= 1;
            assert_eq!(Record::read(&changed), None, "byte {at}");
            assert_eq!(Record::read(&line[..at]), None, "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn rubbish_is_damage(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Record::read(&line), None);
        }
    }
}
