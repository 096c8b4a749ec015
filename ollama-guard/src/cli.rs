//! The commands: one file each. A command knows its arguments, does its work and prints itself.

#![forbid(unsafe_code)]

pub mod events;
pub mod rules;

use std::{
    io::{self, ErrorKind},
    process::ExitCode,
};

/// Trouble or wrong usage.
const TROUBLE: u8 = 2;

/// What came of writing to standard output. A reader that has seen enough and closed the pipe is
/// no failure.
fn written(result: io::Result<()>) -> anyhow::Result<ExitCode> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to standard output"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_success_and_a_full_disk_is_not() {
        assert!(written(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert!(written(Ok(())).is_ok());
        let error = written(Err(ErrorKind::StorageFull.into())).expect_err("trouble");
        assert!(error.to_string().contains("standard output"));
    }
}
