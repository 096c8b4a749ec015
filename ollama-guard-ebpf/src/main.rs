//! The kernel side of `ollama-guard`: adapters around the decision in `ollama-guard-common`.
//!
//! Nothing here does arithmetic on packet contents. [`frames`] lets the decision read a packet,
//! [`policy`] lets it read the maps, [`report`] counts and tells what was decided, [`learn`] counts by
//! source while somebody wants to know, and [`hooks`] holds the entry programs that put these
//! together. The verdict comes first: reporting takes it by value and has no way to change or delay it.

#![no_std]
#![no_main]

mod doors;
mod frames;
mod hooks;
mod learn;
mod maps;
mod policy;
mod report;

/// The licence that the kernel reads: some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A reachable panic would be an endless loop, which the verifier refuses to load. Promising
/// `unreachable` here instead would let the compiler remove the bounds check before the panic.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
