//! What `cargo xtask bench` measures the guard with: programs that make traffic, and programs to
//! compare with. No part of the guard: its binary does not carry this object.
//!
//! Each packet of a run gets another source address from [`OG_SOURCES`]: with one source, or with a
//! few, every lookup is answered by the processor's caches, and a large list looks like a small one.

#![no_std]
#![no_main]

use aya_ebpf::{
    Global,
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS},
    btf_maps::{Array, LpmTrie, PerCpuArray, ProgramArray, lpm_trie::Key},
    helpers::bpf_redirect,
    macros::{btf_map, cgroup_skb, xdp},
    programs::{SkBuffContext, XdpContext},
};
use ollama_guard_common::bench::{MAX_PREFIXES, SOURCES, Source};

/// The sources, in the order in which they are used, again and again.
#[btf_map]
pub static OG_SOURCES: Array<Source, SOURCES> = Array::new();
/// How many packets there were.
#[btf_map]
pub static OG_POSITION: Array<u64, 1> = Array::new();
/// The program that is measured.
#[btf_map]
pub static OG_MEASURED: ProgramArray<1> = ProgramArray::new();
/// The rules of [`lpm`]: a value of 1 is allowed.
#[btf_map]
pub static OG_LPM_V4: LpmTrie<[u8; 4], u32, MAX_PREFIXES> = LpmTrie::new();
/// The same for IPv6.
#[btf_map]
pub static OG_LPM_V6: LpmTrie<[u8; 16], u32, MAX_PREFIXES> = LpmTrie::new();
/// What [`lpm`] dropped.
#[btf_map]
pub static OG_DROPPED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Where the source address stands, in bytes from the start of the frame.
#[unsafe(no_mangle)]
pub static OFFSET: Global<u32> = Global::new(26);
/// 1 for frames whose source is an IPv6 address.
#[unsafe(no_mangle)]
pub static IS_V6: Global<u32> = Global::new(0);
/// The interface that [`flood`] sends out of.
#[unsafe(no_mangle)]
pub static IFINDEX: Global<u32> = Global::new(0);

/// Drops, and does nothing else: the floor of every comparison.
#[xdp(frags)]
fn bare_drop(_: XdpContext) -> u32 {
    XDP_DROP
}

/// Passes, and does nothing else.
#[xdp(frags)]
fn bare_pass(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Lets every packet to a socket pass, and does nothing else.
#[cgroup_skb(ingress)]
fn bare_inner(_: SkBuffContext) -> i32 {
    1
}

/// The same for frames in one buffer only.
#[xdp]
fn bare_pass_one(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Gives the packet its source, and hands it to the program that is measured.
#[xdp(frags)]
fn feed(context: XdpContext) -> u32 {
    hand_over(&context)
}

/// The same for programs that take frames in one buffer only: the kernel lets a program call none of
/// the other kind.
#[xdp]
fn feed_one(context: XdpContext) -> u32 {
    hand_over(&context)
}

#[inline(always)]
fn hand_over(context: &XdpContext) -> u32 {
    if set_source(context).is_some() {
        // SAFETY: both programs take the same context; nothing here has to be cleaned up.
        unsafe { OG_MEASURED.tail_call(context, 0) };
    }
    XDP_ABORTED
}

/// Gives the packet its source, and sends it.
#[xdp(frags)]
fn flood(context: XdpContext) -> u32 {
    match set_source(&context) {
        // SAFETY: a helper that takes numbers.
        Some(()) => (unsafe { bpf_redirect(IFINDEX.load(), 0) }) as u32,
        None => XDP_ABORTED,
    }
}

/// As little as a filter with the kernel's LPM trie can do: untagged frames without options only, one
/// port, one counter.
#[xdp(frags)]
fn lpm(context: XdpContext) -> u32 {
    match lpm_allows(&context) {
        Some(false) => {
            if let Some(count) = OG_DROPPED.get_ptr_mut(0) {
                // SAFETY: this CPU's own element.
                unsafe { *count += 1 };
            }
            XDP_DROP
        }
        _ => XDP_PASS,
    }
}

#[inline(always)]
fn lpm_allows(context: &XdpContext) -> Option<bool> {
    const PORT: [u8; 2] = 11_434_u16.to_be_bytes();
    const TCP: u8 = 6;
    let found = match read::<2>(context, 12)? {
        [0x08, 0x00] => {
            if read::<1>(context, 23)? != [TCP] || read::<2>(context, 36)? != PORT {
                return None;
            }
            OG_LPM_V4.get(&Key::new(32, read::<4>(context, 26)?))
        }
        [0x86, 0xdd] => {
            if read::<1>(context, 20)? != [TCP] || read::<2>(context, 56)? != PORT {
                return None;
            }
            OG_LPM_V6.get(&Key::new(128, read::<16>(context, 22)?))
        }
        _ => return None,
    };
    Some(found == Some(&1))
}

#[inline(always)]
fn read<const N: usize>(context: &XdpContext, offset: usize) -> Option<[u8; N]> {
    let start = context.data() + offset;
    if start + N > context.data_end() {
        return None;
    }
    // SAFETY: the N bytes at `start` lie before `data_end`.
    Some(unsafe { (start as *const [u8; N]).read_unaligned() })
}

#[inline(always)]
fn set_source(context: &XdpContext) -> Option<()> {
    let position = OG_POSITION.get_ptr_mut(0)?;
    // SAFETY: a live element, which one CPU uses.
    let position = unsafe { &mut *position };
    *position = position.wrapping_add(1);
    let number = *position;
    let source = OG_SOURCES.get(number as u32 & (SOURCES as u32 - 1))?;
    let offset = OFFSET.load() as usize & 0xff;
    if IS_V6.load() == 1 {
        return write(context, offset, source.address);
    }
    let [a, b, c, d, ..] = source.address;
    write(context, offset, [a, b, c, d])?;
    // The checksum stands in front of the source.
    write(context, offset - 2, source.checksum)
}

#[inline(always)]
fn write<const N: usize>(context: &XdpContext, offset: usize, bytes: [u8; N]) -> Option<()> {
    let start = context.data() + offset;
    if start + N > context.data_end() {
        return None;
    }
    // SAFETY: the N bytes at `start` lie before `data_end`.
    unsafe { (start as *mut [u8; N]).write_unaligned(bytes) };
    Some(())
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
