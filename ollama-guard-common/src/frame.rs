//! Reading a packet: one bounded, total operation.

/// Bytes of a packet that can be read at offsets.
///
/// A trait and not a slice, because the kernel's verifier follows packet bounds only through
/// comparisons of packet pointers: a slice's length is a number without meaning to it.
pub trait Frame {
    /// The `N` bytes at `offset`, in the order they have on the wire.
    ///
    /// `None` if the frame ends before `offset + N`, or if the bytes cannot be had. An
    /// implementation must never return bytes from outside the frame. `N` is at least 2: the
    /// compiler turns the bounds check of a single byte into "start >= end", from which the
    /// verifier learns nothing (`find_good_pkt_pointers`, kernel/bpf/verifier.c).
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The `8 * N` bytes at `offset`, eight to a word: the first byte the highest. Otherwise as
    /// [`Frame::load`]. Addresses are read so: the compiler keeps single bytes apart where it can,
    /// and a program for the kernel has ten registers and little stack.
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]>;

    /// The same as [`Frame::load`] where it costs next to nothing: `None` also for bytes that [`Frame::load`] would have
    /// to fetch from somewhere.
    #[inline(always)]
    fn load_near<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.load(offset)
    }

    /// `offset` itself, at most [`MAX_BLURRED`].
    ///
    /// Called where paths of different lengths meet: behind VLAN tags and behind extension
    /// headers. On each path the verifier knows the offset exactly, so it would check everything
    /// that follows once for each of them and give up. An adapter for the kernel makes it forget
    /// how the offset came about and keep no more than its bound.
    #[inline(always)]
    fn blur(&self, offset: usize) -> usize {
        offset
    }
}

/// The largest offset that may be blurred.
pub const MAX_BLURRED: usize = 4095;

impl Frame for [u8] {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        const { assert!(N >= 2) };
        self.get(offset..)?.first_chunk().copied()
    }

    #[inline(always)]
    fn load_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let (chunks, _) = self.get(offset..)?.get(..8 * N)?.as_chunks();
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(chunks) {
            *word = u64::from_be_bytes(*bytes);
        }
        Some(words)
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
        assert_eq!(frame.load::<2>(4), None);
        assert_eq!(frame.load::<4>(usize::MAX), None);
        let frame: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3];
        assert_eq!(frame.load_words(0), Some([0, 0x0102_0000_0000_0000]));
        assert_eq!(frame.load_words(1), Some([1, 0x0200_0000_0000_0003]));
        assert_eq!(frame.load_words::<2>(2), None);
        assert_eq!(frame.load_words::<1>(usize::MAX), None);
    }
}
