//! From the bytes of a ring record to a drop with its wall-clock time.

use jiff::{SignedDuration, Timestamp};
use nix::errno::Errno;
use ollama_guard_common::abi::DropEvent;
use thiserror::Error;

use crate::boot_clock;

/// A record of the ring that is not what the kernel side writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "an event record of {got} bytes where {expected} were expected: the program in the kernel is \
     of another version; start this version's daemon again to replace it"
)]
pub struct RecordError {
    /// Bytes of the record.
    pub got: usize,
    /// Bytes of a [`DropEvent`].
    pub expected: usize,
}

/// The clocks could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the system's clocks cannot be read: {0}")]
pub struct ClockError(#[from] Errno);

/// A drop and when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the kernel reported.
    pub drop: DropEvent,
    /// When, by the wall clock.
    pub time: Timestamp,
}

impl Record {
    /// Decodes the bytes of one ring record.
    ///
    /// # Errors
    ///
    /// If the record has another size than the contract says. Any bytes of the right size are a
    /// record: numbers that are not known are kept as they are.
    pub fn decode(bytes: &[u8], clock: &Clock) -> Result<Self, RecordError> {
        let drop: DropEvent = bytemuck::try_pod_read_unaligned(bytes)
            .map_err(|_| RecordError { got: bytes.len(), expected: size_of::<DropEvent>() })?;
        Ok(Self { time: clock.at(drop.boot_ns), drop })
    }
}

/// The same moment by two clocks, to turn the kernel's time into wall-clock time.
///
/// Read once a batch: the wall clock may be set while the daemon runs, and reading it for every
/// record would cost more than the decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    boot_ns: u64,
    wall: Timestamp,
}

impl Clock {
    /// Reads both clocks.
    ///
    /// # Errors
    ///
    /// If the kernel has no `CLOCK_BOOTTIME`.
    pub fn now() -> Result<Self, ClockError> {
        Ok(Self::pair(boot_clock::now()?, Timestamp::now()))
    }

    /// The two readings of one moment.
    #[must_use]
    pub const fn pair(boot_ns: u64, wall: Timestamp) -> Self {
        Self { boot_ns, wall }
    }

    /// The boot clock, in milliseconds, as [`DropEvent`]s have it.
    #[must_use]
    pub const fn boot_ms(&self) -> u64 {
        self.boot_ns / 1_000_000
    }

    /// The wall clock.
    #[must_use]
    pub const fn wall(&self) -> Timestamp {
        self.wall
    }

    /// The wall-clock time of a moment in nanoseconds since boot. A moment beyond what a
    /// [`Timestamp`] can hold becomes the nearest one.
    #[must_use]
    pub fn at(&self, boot_ns: u64) -> Timestamp {
        let distance = duration(boot_ns.abs_diff(self.boot_ns));
        if boot_ns >= self.boot_ns {
            self.wall.checked_add(distance).unwrap_or(Timestamp::MAX)
        } else {
            self.wall.checked_sub(distance).unwrap_or(Timestamp::MIN)
        }
    }
}

fn duration(nanoseconds: u64) -> SignedDuration {
    // Both fit: u64::MAX nanoseconds are 1.8e10 seconds.
    SignedDuration::new((nanoseconds / 1_000_000_000) as i64, (nanoseconds % 1_000_000_000) as i32)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;

    fn clock() -> Clock {
        Clock::pair(5_000_000_000, "2026-03-01T12:00:00Z".parse().expect("a timestamp"))
    }

    #[test]
    fn boot_time_becomes_wall_clock_time() {
        assert_eq!(clock().at(5_000_000_000).to_string(), "2026-03-01T12:00:00Z");
        assert_eq!(clock().at(3_500_000_000).to_string(), "2026-03-01T11:59:58.5Z");
        assert_eq!(clock().at(5_000_000_001).to_string(), "2026-03-01T12:00:00.000000001Z");
    }

    #[test]
    fn a_moment_beyond_all_calendars_is_no_panic() {
        let late = Clock::pair(0, Timestamp::MAX);
        assert_eq!(late.at(u64::MAX), Timestamp::MAX);
        let early = Clock::pair(u64::MAX, Timestamp::MIN);
        assert_eq!(early.at(0), Timestamp::MIN);
    }

    #[test]
    fn the_clocks_of_this_machine_agree_with_themselves() {
        let clock = Clock::now().expect("both clocks");
        assert_eq!(clock.at(clock.boot_ns), clock.wall);
    }

    #[test]
    fn a_record_is_read_from_an_unaligned_place() {
        let mut drop = DropEvent::zeroed();
        drop.boot_ns = 4_000_000_000;
        drop.destination_port = 11_434;
        let mut bytes = vec![0xff];
        bytes.extend_from_slice(bytemuck::bytes_of(&drop));
        let record = Record::decode(&bytes[1..], &clock()).expect("a whole record");
        assert_eq!(record.drop, drop);
        assert_eq!(record.time.to_string(), "2026-03-01T11:59:59Z");
    }

    proptest! {
        #[test]
        fn a_record_of_any_other_size_is_an_error_and_no_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..130),
        ) {
            let decoded = Record::decode(&bytes, &clock());
            if bytes.len() == size_of::<DropEvent>() {
                let record = decoded.expect("a whole record");
                prop_assert_eq!(bytemuck::bytes_of(&record.drop), &bytes[..]);
            } else {
                prop_assert_eq!(decoded, Err(RecordError { got: bytes.len(), expected: 56 }));
            }
        }
    }
}
