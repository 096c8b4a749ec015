//! The table of sources, which programs fill that were loaded with [`super::globals::LEARN`].

use bytemuck::{Pod, Zeroable};

use crate::flow::Source;

/// Places in the table unless somebody asks for another number: 10 MB.
pub const DEFAULT_PLACES: u32 = 65_536;
/// The most that may be asked for: 160 MB.
pub const MOST_PLACES: u32 = 1 << 20;

/// Key in the table of sources: a source has a place for each CPU that it was seen on. Its packets are
/// added up there by that CPU alone, so that none is lost, and a source takes no room for CPUs that
/// never see it. The families are never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct SourceKey {
    /// In network byte order; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// 4 or 6, and [`SourceKey::INNER`]; 0 for the key of a [`SourceBook`].
    pub family: u16,
    /// The CPU's number.
    pub cpu: u16,
}

impl SourceKey {
    /// In the family: what the inner door has seen. It stands by itself, for another door may have seen the
    /// same packets before.
    const INNER: u16 = 1 << 8;

    /// The same source's key at the inner door.
    #[inline(always)]
    #[must_use]
    pub const fn at_inner_door(self) -> Self {
        Self { family: self.family | Self::INNER, ..self }
    }

    /// Whether it is one of the inner door.
    #[must_use]
    pub const fn is_inner(&self) -> bool {
        self.family & Self::INNER != 0
    }

    /// The key of a source on a CPU.
    #[inline(always)]
    #[must_use]
    pub const fn of(source: &Source, cpu: u16) -> Self {
        match *source {
            Source::V4([a, b, c, d]) => {
                let address = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                Self { address, family: 4, cpu }
            }
            Source::V6(address) => Self { address, family: 6, cpu },
        }
    }

    /// The key of a CPU's book.
    #[inline(always)]
    #[must_use]
    pub const fn book(cpu: u16) -> Self {
        Self { address: [0; 16], family: 0, cpu }
    }

    /// Whose key it is; `None` for that of a book.
    #[must_use]
    pub const fn source(&self) -> Option<Source> {
        let [a, b, c, d, ..] = self.address;
        match self.family & !Self::INNER {
            4 => Some(Source::V4([a, b, c, d])),
            6 => Some(Source::V6(self.address)),
            _ => None,
        }
    }
}

/// What one source has sent to guarded ports by one CPU since the table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SourceRecord {
    /// Packets that the rules let pass.
    pub allowed: u64,
    /// Packets that they do not, whether that was carried out or not.
    pub refused: u64,
    /// Bytes of both, link headers included.
    pub bytes: u64,
    /// The first packet: nanoseconds since boot, suspended time included (`CLOCK_BOOTTIME`).
    pub first_ns: u64,
    /// The last one.
    pub last_ns: u64,
    /// Bits of [`crate::traits`].
    pub traits: u64,
}

/// The table's own book, one for each CPU, in the place of a [`SourceRecord`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SourceBook {
    /// Packets of sources that found no place.
    pub homeless: u64,
    /// Nothing.
    pub reserved: [u64; 5],
}

// The layouts, pinned down: a change here is a change of the ABI.
const _: () = {
    assert!(size_of::<SourceKey>() == 20);
    assert!(size_of::<SourceRecord>() == 48);
    assert!(size_of::<SourceBook>() == size_of::<SourceRecord>());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leads_back_to_its_source_and_the_families_do_not_meet() {
        let v4 = Source::V4([192, 0, 2, 7]);
        let mut same = [0; 16];
        same[..4].copy_from_slice(&[192, 0, 2, 7]);
        let v6 = Source::V6(same);
        for source in [v4, v6] {
            let key = SourceKey::of(&source, 3);
            assert_eq!((key.source(), key.is_inner()), (Some(source), false));
            let inner = key.at_inner_door();
            assert_eq!((inner.source(), inner.is_inner()), (Some(source), true));
            assert_ne!(key, inner);
        }
        assert_ne!(SourceKey::of(&v4, 0), SourceKey::of(&v6, 0));
        assert_ne!(SourceKey::of(&v4, 0), SourceKey::of(&v4, 1));
        assert_eq!(SourceKey::book(3).source(), None);
    }
}
