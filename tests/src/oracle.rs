//! The kernel as the oracle: frames made by chance, sent to real listeners without and with the
//! guard.
//!
//! A seeded generator ([`generator`]) mixes the rows of `docs/packets.md` and notes what it has
//! built; from the notes, and not from the bytes, follows what the guard is to say of each frame
//! ([`model`]). Three servers that are alike get the same frames ([`lab`]): one without a guard,
//! which shows what Linux makes of them, one with it in native mode, one in generic mode. A
//! source address for each case ([`cast`]) tells whose an answer is ([`answer`]). What is compared,
//! and by which rules, stands in [`verdict`]. What disagrees is kept ([`fixture`]).

pub mod answer;
pub mod case;
pub mod cast;
pub mod dice;
pub mod fixture;
pub mod generator;
mod inside;
pub mod lab;
mod link;
pub mod model;
mod network4;
mod network6;
mod run;
mod services;
mod trial;
mod upper;
mod verdict;

pub use run::{Options, Report, fresh_seed, replay, run};
pub use verdict::Finding;
