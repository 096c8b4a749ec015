//! The policy in force, read from the maps.

use core::ptr;

use aya_ebpf::btf_maps::lpm_trie::Key;
use ollama_guard_common::{
    Mode, Policy, Protocol, Scope, Source, Standing,
    abi::{PORT_WORDS_PER_SLOT, SLOTS, SlotInfo, port_bit, port_word, standing},
};

use crate::maps::{OG_ADDRESSES, OG_PORTS, OG_RULES_V4, OG_RULES_V6, OG_SELECTED, OG_SLOT_INFO};

/// The policy of the slot that was selected when the packet came in.
///
/// The slot is read once for each packet: everything about it is decided by the old policy or by
/// the new one, never by a mixture.
pub struct LivePolicy {
    slot: u32,
}

impl LivePolicy {
    /// Selects the slot for one packet.
    #[inline(always)]
    pub fn select() -> Self {
        let slot = match OG_SELECTED.get_ptr(0) {
            // SAFETY: a pointer to a live array element. Volatile, so that the compiler can't read
            // it a second time and find another slot.
            Some(selected) => unsafe { ptr::read_volatile(selected) },
            None => 0,
        };
        Self { slot: slot % SLOTS }
    }

    /// Whether verdicts are carried out.
    #[inline(always)]
    pub fn mode(&self) -> Mode {
        self.info().map_or(Mode::Enforce, |info| Mode::from_number(info.mode))
    }

    #[inline(always)]
    fn info(&self) -> Option<&SlotInfo> {
        OG_SLOT_INFO.get(self.slot)
    }
}

impl Policy for LivePolicy {
    #[inline(always)]
    fn is_guarded(&self, protocol: Protocol, port: u16) -> bool {
        let word = self.slot * PORT_WORDS_PER_SLOT as u32 + port_word(protocol, port) as u32;
        match OG_PORTS.get(word) {
            Some(bits) => bits & port_bit(port) != 0,
            // Can't be: the index is within the array. If it were, the packet is guarded.
            None => true,
        }
    }

    #[inline(always)]
    fn guards_any(&self, protocol: Protocol) -> bool {
        self.info().is_none_or(|info| info.protocols & 1 << protocol.index() != 0)
    }

    #[inline(always)]
    fn scope(&self) -> Scope {
        self.info().map_or(Scope::All, |info| Scope::from_number(info.scope))
    }

    #[inline(always)]
    fn is_own_address(&self, destination: &[u8; 16]) -> bool {
        OG_ADDRESSES.get_ptr(destination).is_some()
    }

    #[inline(always)]
    fn standing(&self, source: &Source) -> Standing {
        let found = match source {
            Source::V4(address) => {
                OG_RULES_V4.get(self.slot).map(|rules| rules.get(&Key::new(32, *address)))
            }
            Source::V6(address) => {
                OG_RULES_V6.get(self.slot).map(|rules| rules.get(&Key::new(128, *address)))
            }
        };
        match found {
            Some(Some(&standing::ALLOWED)) => Standing::Allowed,
            Some(Some(&standing::DENIED)) => Standing::Denied,
            Some(_) => Standing::NotListed,
            None => Standing::RulesAbsent,
        }
    }
}
