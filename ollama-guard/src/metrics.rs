//! Metrics and health: HTTP for Prometheus and for probes, on loopback unless somebody says otherwise.
//!
//! The room promises:
//!
//! * **It only looks.** Nothing that is asked here changes anything, and no packet waits for it.
//! * **Clients are bounded.** A connection is one request and lasts seconds; where there are too many, the
//!   oldest goes, so that clients who say nothing keep nobody out. What an answer takes is shared by all
//!   who ask within the same second ([`Cache`]).
//! * **A port that can't be had stops nothing**: it is told, and tried again ([`Place`]).
//!
//! Deliberately not here: where the numbers come from. A [`Source`] hands out a [`Sample`], which the
//! daemon takes from what `status` shows, so that both say the same. There is no login: what is served
//! is for everybody who can reach the address.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /metrics` | every family, in OpenMetrics form or, for whoever does not ask for that, in that of Prometheus |
//! | `GET /healthz` | 200 as long as the daemon's tasks run |
//! | `GET /readyz[?observe=ok]` | 200 if every door holds |

#![forbid(unsafe_code)]

mod cache;
mod families;
mod place;
mod process;
mod routes;
mod sample;
mod server;
mod source;

pub use cache::Cache;
pub use place::{Place, PlaceError, Standing};
pub use sample::{Build, Configuration, Door, Kernel, RuleCount, Sample, Service};
pub use server::{Limits, Mover, Watched, serve, watched};
pub use source::{Readiness, Source};
