//! The demonstration of the main job: what `cargo xtask demo` plays.

mod interrupt;
mod play;
mod stage;

pub use interrupt::Interrupt;
pub use play::play;
pub use stage::Stage;
