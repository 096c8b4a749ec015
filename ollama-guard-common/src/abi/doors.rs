//! Where the numbers of doors stand.

/// Places for the numbers of doors: many more than doors, so that two rarely want the same one.
pub const DOOR_PLACES: u32 = 1024;

/// The two places where an interface's number may stand. An array that is looked at twice is many
/// times quicker than a hash table of the kernel's, and every dropped packet is counted.
#[inline(always)]
#[must_use]
pub const fn door_places(ifindex: u32) -> [u32; 2] {
    // Interface indexes are given in order, so the first choice is nearly always free. The second
    // is by the golden ratio (Knuth, volume 3, section 6.4).
    [ifindex % DOOR_PLACES, ifindex.wrapping_mul(0x9e37_79b1) >> 22]
}

/// What stands in such a place: the interface index in the upper half, its number in the lower one.
#[must_use]
pub const fn door_word(ifindex: u32, number: u32) -> u64 {
    (ifindex as u64) << 32 | number as u64
}

/// The number in a place, if it is this interface's.
#[inline(always)]
#[must_use]
pub const fn door_number(word: u64, ifindex: u32) -> Option<u32> {
    if (word >> 32) as u32 == ifindex { Some(word as u32) } else { None }
}

const _: () = assert!(DOOR_PLACES == 1 << (32 - 22));
