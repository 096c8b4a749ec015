//! The word that says which policy is in force.

use ollama_guard_common::{Mode, Scope, abi::Selection};

/// The selection of a slot whose policy has these settings and these words of ports.
pub(super) fn of(
    slot: u32,
    mode: Mode,
    scope: Scope,
    protocols: u32,
    port_words: &[u64],
) -> Selection {
    let none = Selection::new(slot, mode, scope, protocols);
    port_words.iter().fold(none, |selection, word| selection.with_ports(*word))
}
