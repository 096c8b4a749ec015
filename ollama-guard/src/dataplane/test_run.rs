//! Test runs: a packet through the twin of an attached program, on the live maps.
//!
//! The twin is the same object with the frozen global `REPORT` at 0: it counts nothing, reports
//! nothing, and returns the reason beside the action. Its tag and the maps that it reads are those
//! of the program that filters.

use aya::{
    TestRun as _, TestRunOptions,
    programs::{CgroupSkb, CgroupSkbAttachType, SchedClassifier, Xdp},
};
use aya_obj::programs::XdpAttachType;
use ollama_guard_common::{Reason, Start, abi::test_run_reason};

use super::{DataplaneError, PinDir, Result, links::Hook, pins};

/// `XDP_DROP` (include/uapi/linux/bpf.h).
const XDP_DROP: u32 = 1;

/// Words of `struct __sk_buff`, and the places of `mark`, `ifindex` and `data_end` in it
/// (include/uapi/linux/bpf.h).
const SK_BUFF_WORDS: usize = 48;
const SK_BUFF_MARK: usize = 2;
const SK_BUFF_IFINDEX: usize = 10;
const SK_BUFF_DATA_END: usize = 20;

/// The shortest frame that the kernel takes for a test run (`ETH_HLEN`, net/bpf/test_run.c).
pub const SHORTEST_FRAME: usize = 14;

/// The twin of an entry program.
pub struct Twin {
    program: Entry,
    name: &'static str,
}

enum Entry {
    Xdp(Xdp),
    Tc(SchedClassifier),
    Inner(CgroupSkb),
}

/// What the twin said about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the packet would be dropped now; never in observe mode.
    pub dropped: bool,
    /// Why. It implies the verdict.
    pub reason: Reason,
}

impl Twin {
    /// Opens the pinned twin for a hook and a kind of device.
    pub fn open(pins: &PinDir, hook: Hook, start: Start) -> Result<Self> {
        pins.require_current()?;
        let name = pins::twin_name(hook, start);
        let path = pins.current().join(name);
        let program = match hook {
            Hook::Xdp => Xdp::from_pin(&path, XdpAttachType::Interface).map(Entry::Xdp),
            Hook::Tcx | Hook::Clsact => SchedClassifier::from_pin(&path).map(Entry::Tc),
            Hook::Cgroup => {
                CgroupSkb::from_pin(&path, CgroupSkbAttachType::Ingress).map(Entry::Inner)
            }
        };
        Ok(Self { program: program.map_err(|error| failed(name, &error))?, name })
    }

    /// Runs one frame of at least [`SHORTEST_FRAME`] bytes.
    pub fn run(&self, frame: &[u8]) -> Result<Answer> {
        self.run_with(frame, None)
    }

    /// Runs one frame as if it came in through an interface of this network namespace.
    ///
    /// At XDP the kernel lets that be said of few devices, so the index stands in front of the frame, as
    /// metadata; nothing but a twin reads it there.
    pub fn run_at(&self, frame: &[u8], ifindex: u32) -> Result<Answer> {
        match self.program {
            Entry::Xdp(_) => {
                let data = [&ifindex.to_ne_bytes(), frame].concat();
                // The first four bytes are metadata.
                let context: [u32; 6] = [4, data.len() as u32, 0, 0, 0, 0];
                self.run_with(&data, Some(bytemuck::bytes_of(&context)))
            }
            Entry::Tc(_) | Entry::Inner(_) => {
                let mut context = [0_u32; SK_BUFF_WORDS];
                context[SK_BUFF_IFINDEX] = ifindex;
                self.run_with(frame, Some(bytemuck::cast_slice(&context)))
            }
        }
    }

    /// Runs one frame of which only the first `linear` bytes lie in the first buffer.
    pub fn run_split(&self, frame: &[u8], linear: u32) -> Result<Answer> {
        match self.program {
            Entry::Xdp(_) => {
                // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress.
                let context: [u32; 6] = [0, linear, 0, 0, 0, 0];
                self.run_with(frame, Some(bytemuck::bytes_of(&context)))
            }
            Entry::Tc(_) | Entry::Inner(_) => {
                let mut context = [0_u32; SK_BUFF_WORDS];
                context[SK_BUFF_DATA_END] = linear;
                self.run_with(frame, Some(bytemuck::cast_slice(&context)))
            }
        }
    }

    fn run_with(&self, frame: &[u8], context: Option<&[u8]>) -> Result<Answer> {
        let mut after = [0_u32; SK_BUFF_WORDS];
        let announced;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.ctx_in = context;
        let result = match &self.program {
            Entry::Xdp(program) => program.test_run(options),
            Entry::Tc(program) => program.test_run(options),
            Entry::Inner(program) => {
                announced = behind_ethernet(frame);
                options.data_in = Some(&announced);
                options.ctx_out = Some(bytemuck::cast_slice_mut(&mut after));
                program.test_run(options)
            }
        };
        let returned = result.map_err(|error| failed(self.name, &error))?.return_value;
        // At the inner door nothing can be returned but 0 and 1.
        let value = match self.program {
            Entry::Inner(_) => after[SK_BUFF_MARK],
            Entry::Xdp(_) | Entry::Tc(_) => returned,
        };
        let (action, reason) = test_run_reason(value).ok_or_else(|| DataplaneError::TestRun {
            program: self.name,
            cause: format!("it returned {value:#x}, which is no reason of this version"),
        })?;
        Ok(Answer { dropped: action == XDP_DROP, reason })
    }
}

/// The kernel takes a link header away before it runs a program of this kind (`bpf_prog_test_run_skb`,
/// net/bpf/test_run.c).
fn behind_ethernet(packet: &[u8]) -> Vec<u8> {
    let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let ethertype: [u8; 2] = if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&[0; SHORTEST_FRAME - 2][..], &ethertype, packet].concat()
}

fn failed(program: &'static str, error: &dyn std::error::Error) -> DataplaneError {
    let cause = error.source().map_or_else(|| error.to_string(), |source| source.to_string());
    DataplaneError::TestRun { program, cause }
}
