//! The word that says which policy is in force.

use super::SLOTS;
use crate::{
    flow::Protocol,
    verdict::{Mode, Scope},
};

/// What every packet reads first, and once: the slot in force, and what can be said of its policy in a
/// few bits. Written and read as one word, so that no packet is judged by a mixture.
///
/// | bits | |
/// | --- | --- |
/// | 0..=1 | the slot |
/// | 2 | [`Mode`], of packets in doubt and of the one service |
/// | 3 | [`Scope`] |
/// | 4 | whether services or doors have to be told apart |
/// | 5 | whether the policy is on trial: then a clock has to be read, and another word may be in force |
/// | 8..=12 | protocols with a guarded port, at [`Protocol::index`] |
/// | 32..=63 | one bit for each remainder of a guarded port modulo 32 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection(pub u64);

impl Selection {
    const MODE: u32 = 2;
    const SCOPE: u32 = 3;
    const APART: u32 = 4;
    const TRIAL: u32 = 5;
    const PROTOCOLS: u32 = 8;
    const PORTS: u32 = 32;

    /// A slot whose policy guards no port yet.
    #[must_use]
    pub const fn new(slot: u32, mode: Mode, scope: Scope, protocols: u32) -> Self {
        let bits = (mode as u64) << Self::MODE | (scope as u64) << Self::SCOPE;
        Self((slot % SLOTS) as u64 | bits | (protocols as u64 & 0x1f) << Self::PROTOCOLS)
    }

    /// The same for a policy with several services, or with rules that hold at some doors only.
    #[must_use]
    pub const fn apart(self) -> Self {
        Self(self.0 | 1 << Self::APART)
    }

    /// The same for a policy that is in force for a time only, unless it is confirmed.
    #[must_use]
    pub const fn on_trial(self) -> Self {
        Self(self.0 | 1 << Self::TRIAL)
    }

    /// The same for good.
    #[must_use]
    pub const fn for_good(self) -> Self {
        Self(self.0 & !(1 << Self::TRIAL))
    }

    /// The same with one more guarded port.
    #[must_use]
    pub const fn with_port(self, port: u16) -> Self {
        Self(self.0 | 1 << (Self::PORTS + (port as u32 & 31)))
    }

    /// The slot.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.0 as u32 % SLOTS
    }

    /// Whether verdicts are carried out.
    #[inline(always)]
    #[must_use]
    pub const fn mode(self) -> Mode {
        Mode::from_number((self.0 >> Self::MODE & 1) as u32)
    }

    /// Whose packets are decided on.
    #[inline(always)]
    #[must_use]
    pub const fn scope(self) -> Scope {
        Scope::from_number((self.0 >> Self::SCOPE & 1) as u32)
    }

    /// Whether services or doors have to be told apart.
    #[inline(always)]
    #[must_use]
    pub const fn is_apart(self) -> bool {
        self.0 >> Self::APART & 1 == 1
    }

    /// Whether the policy is in force for a time only.
    #[inline(always)]
    #[must_use]
    pub const fn is_on_trial(self) -> bool {
        self.0 >> Self::TRIAL & 1 == 1
    }

    /// Whether any port of this protocol is guarded.
    #[inline(always)]
    #[must_use]
    pub const fn guards_any(self, protocol: Protocol) -> bool {
        self.0 >> (Self::PROTOCOLS + protocol.index() as u32) & 1 == 1
    }

    /// `false` if this port is guarded in no protocol: that settles most packets.
    #[inline(always)]
    #[must_use]
    pub const fn may_guard(self, port: u16) -> bool {
        self.0 >> (Self::PORTS + (port as u32 & 31)) & 1 == 1
    }
}
