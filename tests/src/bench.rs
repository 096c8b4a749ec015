//! What the guard costs, beside what people would use instead: measured in one run, as ratios.
//!
//! * [`lists`]: lists of rules, and sources that are in them or not.
//! * [`feeder`]: many sources through one program, and the time that it takes.
//! * [`program`]: the program alone, by `BPF_PROG_TEST_RUN`.
//! * [`processors`]: the program on two processors at once.
//! * [`xdp_filter`]: one of those that it is compared with.
//! * [`flood`]: a flood of real frames through a cable, and who drops it at what cost.
//! * [`events`]: what it takes to tell of the flood.
//! * [`bystander`]: what all other traffic notices of it.
//! * [`inner`]: what the inner door costs those that it lets in, and which door ends a flood.
//! * [`update`]: replacing a list and adding to one.
//! * [`start`]: starting with nothing loaded.
//! * [`knocking`]: a source that never stops, and when it is let in.
//! * [`report`] and [`plot`]: tables, goals and a picture.
//! * [`usual`]: what is usual, so that a collapse is seen.
//!
//! Everything that is compared is measured in turn, round by round, on the same processor: a slow
//! moment of the machine is slow for all. Figures are medians of the rounds, with the quartiles.

pub mod bystander;
pub mod events;
pub mod feeder;
pub mod flood;
pub mod inner;
pub mod knocking;
pub mod lists;
pub mod plot;
pub mod processors;
pub mod program;
pub mod report;
pub mod start;
pub mod summary;
pub mod update;
pub mod usual;
pub mod xdp_filter;

use anyhow::Result;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use self::report::Report;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// A few rounds, and no list of a million: enough to see a collapse.
    pub quick: bool,
}

impl Options {
    /// Rounds of each cell.
    #[must_use]
    pub const fn rounds(&self) -> usize {
        if self.quick { 3 } else { 11 }
    }

    /// The sizes of lists.
    #[must_use]
    pub const fn sizes(&self) -> &'static [usize] {
        if self.quick { &[1, 1_000] } else { &[1, 1_000, 100_000, 1_000_000] }
    }
}

/// Measures everything. `say` is told what is going on.
///
/// # Errors
///
/// If something can't be measured, or is not as it should be: a wrong verdict is no measurement.
pub fn bench(options: &Options, say: &dyn Fn(&str)) -> Result<Report> {
    stay_on_processor(0)?;
    let mut report = Report::default();
    program::measure(options, &mut report, say)?;
    processors::measure(options, &mut report, say)?;
    flood::measure(options, &mut report, say)?;
    events::measure(options, &mut report, say)?;
    bystander::measure(options, &mut report, say)?;
    inner::measure(options, &mut report, say)?;
    update::measure(options, &mut report, say)?;
    start::measure(options, &mut report, say)?;
    Ok(report)
}

/// This thread, and what it starts, on this processor. The whole process on the first one: sender and
/// receiver of a flood share it, so that time is the whole path's.
fn stay_on_processor(number: usize) -> Result<()> {
    let mut processor = CpuSet::new();
    processor.set(number)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &processor)?)
}
