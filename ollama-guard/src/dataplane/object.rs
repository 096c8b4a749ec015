//! The kernel object that the binary carries.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The object, or nothing if the binary was built without the kernel side.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ollama-guard.bpf.o"));

/// Whether this binary carries its kernel program.
#[must_use]
pub fn is_embedded() -> bool {
    !OBJECT.is_empty()
}

/// The object's bytes: empty if the binary was built without the kernel side.
#[must_use]
pub fn embedded_object() -> &'static [u8] {
    OBJECT
}

/// The SHA-256 of an object, as sha256sum(1) prints it.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing into a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_what_sha256sum_prints() {
        // FIPS 180-4, "abc".
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
