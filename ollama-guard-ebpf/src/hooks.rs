//! The entry programs.

pub mod xdp;
