//! The kernel object that the binary carries.

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
