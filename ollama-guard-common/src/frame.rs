//! Reading a packet: one bounded, total operation.

/// Bytes of a packet that can be read at offsets.
///
/// A trait and not a slice, because the kernel's verifier follows packet bounds only through
/// comparisons of packet pointers: a slice's length is a number without meaning to it.
pub trait Frame {
    /// The `N` bytes at `offset`, in the order they have on the wire.
    ///
    /// `None` if the frame ends before `offset + N`, or if the bytes cannot be had. An
    /// implementation must never return bytes from outside the frame.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Frame for [u8] {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_where_the_frame_ends() {
        let frame: &[u8] = &[1, 2, 3, 4];
        assert_eq!(frame.load::<2>(0), Some([1, 2]));
        assert_eq!(frame.load::<2>(2), Some([3, 4]));
        assert_eq!(frame.load::<2>(3), None);
        assert_eq!(frame.load::<0>(4), Some([]));
        assert_eq!(frame.load::<1>(usize::MAX), None);
    }
}
