//! The kernel objects: programs, maps, links and their pins.
//!
//! The only room that imports aya, and the only one with `unsafe`. What it promises:
//!
//! * **Everything that filters is pinned.** Links under `<pin-dir>/links/<hook>-<ifindex>`, programs
//!   and maps under `<pin-dir>/v<ABI_VERSION>/`. A daemon that dies leaves the filter in place. A
//!   clsact filter can't be pinned, nor need it be: it stays, and is found again by its name.
//! * **Adopting has no gap.** A new daemon reuses the pinned maps, puts its programs into the
//!   pinned links in place, and only then replaces the program pins.
//! * **Pins are checked before they are trusted**: type, sizes and flags, because aya 0.14 does
//!   not, and a map of another shape would be read past its end.
//! * **A policy is swapped whole**, by one index that each packet reads once.
//! * **Reading never changes anything**: [`Snapshot`] opens pins and reads them, with or without a
//!   running daemon.
//!
//! Links are made by `bpf(BPF_LINK_CREATE)` directly: aya 0.14 falls back to a netlink attachment
//! on any `EINVAL`, which can be neither pinned nor recognised, and which stays behind when its
//! conversion into a pinnable link fails.

pub mod addresses;
pub mod allowance;
mod clsact;
mod contents;
pub mod counters;
mod detach;
mod driver;
mod error;
mod held;
pub mod inner;
pub mod learning;
pub mod links;
mod maps;
pub mod memory;
mod netlink;
mod object;
pub mod pins;
mod probe;
mod programs;
pub mod readback;
pub mod replica;
pub mod ring;
mod rules;
mod slots;
pub mod snapshot;
mod sys;
mod table;
mod tcx;
pub mod test_run;
pub mod wiring;
mod words;

mod live;

pub use ollama_guard_common::abi::INNER_NAME;

pub use contents::{Found, InForce};
pub use detach::{detach_all, remains};
pub use driver::driver_name;
pub use error::DataplaneError;
pub use inner::{Arrival, InnerState, Place};
pub use learning::{SourceTable, Sources};
pub use links::{AttachMode, Hook, LinkState, Outcome};
pub use live::{Dataplane, OpenOptions};
pub use object::{embedded_object, is_embedded, sha256};
pub use pins::{PinDir, PinLock};
pub use probe::{
    check_capabilities as check_privileges, check_kept_capabilities, missing_privileges,
};
pub use readback::Readback;
pub use ring::KernelLog;
pub use slots::{PolicySink, TrialEnd};
pub use snapshot::Snapshot;
pub use snapshot::matching_rule;
pub use test_run::Twin;

type Result<T, E = DataplaneError> = std::result::Result<T, E>;
