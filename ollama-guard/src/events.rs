//! Drop events, from the bytes in the kernel's ring to the readers.
//!
//! [`record`] decodes, [`fold`] turns the repeats of a source into counts, [`event`] is what
//! people and programs read, and [`journal`] keeps the last ones and hands new ones to any number
//! of readers. Everything is bounded: by the folder's table, by the journal's length.
//!
//! Deliberately not here: counters. The kernel counts packets exactly; events are best effort, and
//! nothing in this room changes a count or delays a verdict.

#![forbid(unsafe_code)]

pub mod event;
pub mod fold;
pub mod journal;
pub mod record;
pub mod text;

pub use event::Event;
pub use fold::{Folded, Folder};
pub use journal::{Journal, Line, Subscription};
pub use record::{Clock, Record};
