//! Fault injection: every system call of the guard about kernel objects, netlink and its own
//! files fails once, with every error, at start, upgrade, edit and detach; or the process is
//! killed in its place. What becomes of it is judged from outside.
//!
//! * [`Traced`]: a process of which one call can be made to fail.
//! * [`Stage`]: a bed, a guard, a flood of strangers, and the question whom the door lets pass.
//! * [`Phase`]: what is done while a call fails, and what may come of it.
//! * [`Matrix`]: all cases, and the table of `docs/faults.md`.

mod call;
mod matrix;
mod phase;
mod stage;
mod stored;
mod tracer;

pub use call::Places;
pub use matrix::{Case, Matrix, Say, Selection};
pub use phase::{Outcome, Phase};
pub use stage::{Stage, Who};
pub use tracer::{End, Fault, Target, Traced};
