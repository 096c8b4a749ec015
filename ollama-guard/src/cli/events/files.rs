//! The events of the past from the daemon's files, while no daemon answers.

use std::{collections::VecDeque, io::Write, ops::ControlFlow, path::Path, process::ExitCode};

use super::{Printer, in_words, written};
use crate::{
    control::ClientError,
    events::{
        Clock, Line, Window,
        history::{Selector, boot_id, directory, read},
        journal::JOURNAL_EVENTS,
    },
};

/// Prints what is within the window; without one, as many as a daemon has at hand.
///
/// # Errors
///
/// If there is no history or it may not be read: then why no daemon answers counts as well.
pub(super) fn print(
    no_daemon: ClientError,
    state_dir: &Path,
    window: &Window,
    printer: &mut Printer<'_>,
    err: &mut (dyn Write + Send),
) -> anyhow::Result<ExitCode> {
    let files = directory(state_dir);
    if matches!(files.try_exists(), Ok(false)) {
        return Err(no_daemon.into());
    }
    let most = if window.is_open() { JOURNAL_EVENTS } else { usize::MAX };
    let mut selector = Selector::new(window.at(Clock::now()?), boot_id());
    let mut last = VecDeque::new();
    let mut failure = None;
    let (mut lines, mut is_told) = (Vec::new(), false);
    let mut tell = |err: &mut (dyn Write + Send)| {
        if std::mem::replace(&mut is_told, true) {
            return Ok(());
        }
        writeln!(err, "no daemon answers: this is read from {}", files.display())
    };
    let outcome = read(&files, u64::MAX, None, |entry| {
        selector.take(entry, &mut lines);
        if most < usize::MAX {
            last.extend(lines.drain(..));
            last.drain(..last.len().saturating_sub(most));
            return ControlFlow::Continue(());
        }
        let printed = tell(err).and_then(|()| show(&lines, printer));
        lines.clear();
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    if let Err(error) = outcome {
        let message = format!("{no_daemon}; and its files can't be read instead: {error}");
        return Err(anyhow::anyhow!(message));
    }
    if let Some(error) = failure {
        return written(Err(error));
    }
    tell(err)?;
    selector.finish(&mut lines);
    last.extend(lines);
    let printed = show(last.make_contiguous(), printer);
    if printer.printed == 0 && !printer.json {
        writeln!(err, "no drop is in it, or not in that time")?;
    }
    written(printed)
}

fn show(lines: &[Line], printer: &mut Printer<'_>) -> std::io::Result<()> {
    for line in lines {
        let text = if printer.json { serde_json::to_string(line)? } else { in_words(line) };
        printer.print(&text)?;
    }
    Ok(())
}
