//! The events of the past, on disk.
//!
//! # What this room promises
//!
//! * **Bounded**: the files never hold more than they may; the oldest one goes first. However many
//!   events come, at most [a quarter](Allowance) of that is written in an hour, so that no flood
//!   drives out what was there in less than about four hours, nor wears out the disk. What is not written
//!   is counted, and the count stands where the events would have stood.
//! * **Whatever is in the files, reading goes on**: each line has a checksum. One that was cut off by a
//!   crash, or that holds something else, is passed over and counted.
//! * **Nothing depends on it**: a full or broken disk costs the events of that time, and is told.
//!   Nothing is synced: a crash of the host, not of the daemon, may cost the last half minute.
//!
//! # The files
//!
//! `events/` in the state directory has up to ten of them, numbered upwards, of which only the last is
//! written to: lines of JSON, each behind its checksum. A [`Begin`] stands at the begin of each file
//! and wherever a daemon begins, and says which start of the host the boot-time clock of the events
//! behind it belongs to.

mod allowance;
mod line;
mod read;
mod segments;
mod select;
mod write;

pub use allowance::Allowance;
pub use line::Begin;
pub use read::{Entry, Extent, HistoryError, read};
pub use segments::directory;
pub use select::{Selector, boot_id};
pub use write::Writer;

/// The directory in the state directory.
pub const HISTORY_DIR: &str = "events";
/// How much is read of the past when the daemon starts, to know who has knocked before.
pub const RECALLED_BYTES: u64 = 16 << 20;
