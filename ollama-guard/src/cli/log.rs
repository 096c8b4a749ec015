//! Where the log goes, and in what form.
//!
//! Text on standard error, so that output can be piped; one JSON object a line there, on request; or the
//! system's journal, in its own protocol with a field for each value, if that is where standard error
//! leads anyway. A journal that can't be reached is no reason not to guard: then it is text, and says so.

mod limit;

use std::{
    env,
    ffi::OsStr,
    io::{self, IsTerminal as _},
};

use clap::ValueEnum;
use nix::sys::stat::{FileStat, fstat};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use self::limit::Limit;

/// Where systemd says which file leads to its journal, as `device:inode` (systemd.exec(5)).
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";
/// In front of the names of our fields in the journal, whose names are everybody's.
const FIELD_PREFIX: &str = "OLLAMA_GUARD";

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// The journal, if standard error leads there; text otherwise
    #[default]
    Auto,
    /// Lines for people, on standard error
    Text,
    /// A JSON object a line, on standard error
    Json,
    /// systemd's journal, with a field for each value
    Journald,
}

type Output = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts the log. `OLLAMA_GUARD_LOG` sets levels (`debug`, `ollama_guard::control=trace`).
///
/// To be called once, before anything is confined.
pub fn init(format: LogFormat) {
    let is_journal = format == LogFormat::Journald
        || format == LogFormat::Auto
            && leads_to_the_journal(env::var_os(JOURNAL_STREAM).as_deref());
    let (output, trouble) = match format {
        LogFormat::Json => (json(), None),
        _ if is_journal => match journal() {
            Ok(output) => (output, None),
            Err(error) => (text(), Some(error)),
        },
        _ => (text(), None),
    };
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var("OLLAMA_GUARD_LOG")
        .from_env_lossy();
    tracing_subscriber::registry().with(output).with(filter).with(Limit::default()).init();
    if let Some(error) = trouble {
        tracing::warn!(%error, "the journal can't be reached: the log is text on standard error");
    }
}

fn text() -> Output {
    tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .boxed()
}

fn json() -> Output {
    tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(io::stderr)
        .boxed()
}

/// Sends each line to the journal's socket by name, so that a journal that is started again is found.
fn journal() -> io::Result<Output> {
    // As `journalctl -p` and everybody's colours expect it; the crate's own are one step louder.
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    let layer = tracing_journald::layer()?
        .with_field_prefix(Some(FIELD_PREFIX.into()))
        .with_syslog_identifier("ollama-guard".into())
        .with_priority_mappings(priorities);
    Ok(layer.boxed())
}

/// Whether standard error is what systemd has connected to its journal: somebody may have redirected it.
fn leads_to_the_journal(stream: Option<&OsStr>) -> bool {
    stream.is_some_and(|stream| fstat(io::stderr()).is_ok_and(|file| names(stream, &file)))
}

fn names(stream: &OsStr, file: &FileStat) -> bool {
    let numbers = stream.to_str().and_then(|text| text.split_once(':'));
    numbers.is_some_and(|(device, inode)| {
        device.parse() == Ok(file.st_dev) && inode.parse() == Ok(file.st_ino)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_stream_is_the_file_of_its_numbers_and_no_other() {
        let [one, other] = ["/dev/null", "/proc/self/status"].map(|path| File::open(path).unwrap());
        let [one, other] = [fstat(one).unwrap(), fstat(other).unwrap()];
        let stream = format!("{}:{}", one.st_dev, one.st_ino);
        assert!(names(OsStr::new(&stream), &one));
        assert!(!names(OsStr::new(&stream), &other));
        for nonsense in ["", ":", "8:", "x:y", "1:2:3"] {
            assert!(!names(OsStr::new(nonsense), &one), "{nonsense}");
        }
        assert!(!leads_to_the_journal(None));
        assert!(!leads_to_the_journal(Some(OsStr::new("0:0"))));
    }
}
