//! Drop events, from the bytes in the kernel's ring to the readers.
//!
//! [`record`] decodes, [`fold`] turns the repeats of a source into counts, [`event`] is what
//! people and programs read, [`sources`] marks what is remarkable, [`journal`] keeps the last ones and
//! hands new ones to any number of readers, and [`history`] keeps those of the past on disk. Everything is
//! bounded: by the folder's table, by the number of sources, by the journal's length, by the bytes on disk.
//!
//! Deliberately not here: counters. The kernel counts packets exactly; events are best effort, and
//! nothing in this room changes a count or delays a verdict.

#![forbid(unsafe_code)]

pub mod event;
pub mod fold;
pub mod history;
pub mod journal;
pub mod mark;
pub mod record;
pub mod sources;
pub mod text;
pub mod window;

pub use event::{Event, Outcome};
pub use fold::{Folded, Folder};
pub use journal::{Journal, Line, Subscription};
pub use mark::Mark;
pub use record::{Clock, Record};
pub use sources::Sources;
pub use window::{Bounds, Moment, Window};
