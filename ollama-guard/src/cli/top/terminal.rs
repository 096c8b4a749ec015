//! The terminal, taken and given back as it was.

use std::io;

use ratatui::DefaultTerminal;

/// The terminal as long as it is ours. Dropping it gives it back, and so does a panic, before its
/// message is printed.
#[derive(Debug)]
pub struct Taken {
    /// To draw on.
    pub terminal: DefaultTerminal,
}

impl Taken {
    /// Takes the terminal: the other screen, and every key as it is pressed.
    ///
    /// # Errors
    ///
    /// If standard output is no terminal that can do this.
    pub fn take() -> io::Result<Self> {
        // Sets a hook for panics as well.
        ratatui::try_init().map(|terminal| Self { terminal }).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // If that fails, the terminal is gone.
        let _ = self.terminal.show_cursor();
        ratatui::restore();
    }
}
