//! How the decision reads a packet at each hook.

pub mod xdp;
