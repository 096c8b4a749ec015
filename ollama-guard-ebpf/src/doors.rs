//! The doors: interfaces by number.

use ollama_guard_common::abi::{DOOR_UNKNOWN, door_number, door_places};

use crate::maps::{DOORS_MASK, OG_DOORS};

/// The number of the door that an interface is, below the number of doors that fit.
#[inline(always)]
pub fn number(ifindex: u32) -> u32 {
    let [first, second] = door_places(ifindex);
    let number = |place| door_number(*OG_DOORS.get(place)?, ifindex);
    let number = match number(first) {
        Some(number) => number,
        None => number(second).unwrap_or(DOOR_UNKNOWN),
    };
    number & DOORS_MASK.load()
}
