//! Reading, with or without a daemon that writes at the same time.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    line::{Begin, LINE_BYTES, Numbered, Record},
    segments::{self, Segment},
};
use crate::events::Event;

/// The history can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The directory can't be read.
    #[error("cannot read the events in {}: {source}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory can't be made or looked at.
    #[error("cannot keep events in {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("cannot write events to {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How far the files were written at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub(super) segment: u64,
    pub(super) bytes: u64,
}

/// What there is to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// An event.
    Event {
        /// The daemon that wrote it; `None` if that can't be read.
        begin: Option<Arc<Begin>>,
        /// Its number in that daemon's journal.
        number: u64,
        /// The event.
        event: Arc<Event>,
    },
    /// So many events were not written here.
    Unwritten(u64),
    /// So many lines in a row are not as they were written.
    Damaged(u64),
}

/// Hands every entry to `each`, the oldest first, until it has enough: those of the newest files of
/// which `most` bytes are full at least, written before `extent`. A file that goes away meanwhile
/// or can't be read takes nothing along but its own events.
///
/// # Errors
///
/// If the directory can't be listed. That there is none is no error: then there are no events.
pub fn read(
    directory: &Path,
    most: u64,
    extent: Option<Extent>,
    mut each: impl FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), HistoryError> {
    let segments = match segments::list(directory) {
        Ok(segments) => segments,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(HistoryError::Read { path: directory.to_owned(), source }),
    };
    for Segment { number, .. } in newest(&segments, most) {
        let limit = match extent {
            Some(extent) if number > extent.segment => break,
            Some(extent) if number == extent.segment => extent.bytes,
            _ => u64::MAX,
        };
        let file = match segments::open(directory, number) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => {
                if each(Entry::Damaged(1)).is_break() {
                    break;
                }
                continue;
            }
        };
        if read_file(file, limit, &mut each).is_break() {
            break;
        }
    }
    Ok(())
}

/// The time of the oldest event of a file.
pub(super) fn first_time(directory: &Path, number: u64) -> Option<jiff::Timestamp> {
    let mut found = None;
    let _ = read_file(segments::open(directory, number).ok()?, u64::MAX, &mut |entry| {
        let Entry::Event { event, .. } = entry else { return ControlFlow::Continue(()) };
        found = Some(event.time);
        ControlFlow::Break(())
    });
    found
}

fn newest(segments: &[Segment], most: u64) -> impl Iterator<Item = Segment> {
    let mut bytes = 0_u64;
    let from = segments.iter().rposition(|segment| {
        bytes = bytes.saturating_add(segment.bytes);
        bytes >= most
    });
    segments[from.unwrap_or(0)..].iter().copied()
}

fn read_file(
    file: File,
    limit: u64,
    each: &mut impl FnMut(Entry) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut reader = BufReader::new(file.take(limit));
    let (mut line, mut begin, mut damaged) = (Vec::new(), None, 0);
    loop {
        let record = match read_line(&mut reader, &mut line) {
            Ok(true) => Record::read(&line),
            Ok(false) => break,
            // The disk can't give back the rest of the file.
            Err(_) => {
                damaged += 1;
                break;
            }
        };
        let entry = match record {
            Some(Record::Begin(found)) => {
                begin = Some(Arc::new(found));
                continue;
            }
            Some(Record::Event(Numbered { number, event })) => {
                Entry::Event { begin: begin.clone(), number, event }
            }
            Some(Record::Unwritten(count)) => Entry::Unwritten(count),
            None => {
                damaged += 1;
                continue;
            }
        };
        if damaged > 0 {
            each(Entry::Damaged(std::mem::take(&mut damaged)))?;
        }
        each(entry)?;
    }
    if damaged > 0 { each(Entry::Damaged(damaged)) } else { ControlFlow::Continue(()) }
}

/// Reads a line without its end. Of one that is too long only the begin is kept, and one that has no
/// end yields something that is no line, so that neither is believed. `false` at the end.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let read = reader.by_ref().take(LINE_BYTES as u64).read_until(b'\n', line)?;
    if read == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(true);
    }
    line.clear();
    reader.skip_until(b'\n')?;
    Ok(true)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;
    use crate::events::event::tests::knock;

    /// Everything that is read, in short: the numbers of events, `u3`, `d2`.
    pub(in crate::events::history) fn contents(
        directory: &Path,
        extent: Option<Extent>,
    ) -> Vec<String> {
        let mut found = Vec::new();
        read(directory, u64::MAX, extent, |entry| {
            found.push(match entry {
                Entry::Event { number, .. } => number.to_string(),
                Entry::Unwritten(count) => format!("u{count}"),
                Entry::Damaged(count) => format!("d{count}"),
            });
            ControlFlow::Continue(())
        })
        .unwrap();
        found
    }

    fn event(number: u64) -> Vec<u8> {
        Record::Event(Numbered { number, event: Arc::new(knock("192.0.2.1")) }).line().unwrap()
    }

    fn begin(boot_ms: u64) -> Vec<u8> {
        let time = jiff::Timestamp::UNIX_EPOCH;
        Record::Begin(Begin { boot_id: "b".into(), boot_ms, time }).line().unwrap()
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn of(files: &[(u64, &[&[u8]])]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for (number, parts) in files {
                fs::write(segments::path(directory.path(), *number), parts.concat()).unwrap();
            }
            Self(directory)
        }

        fn contents(&self) -> Vec<String> {
            contents(self.0.path(), None)
        }
    }

    #[test]
    fn no_directory_is_no_event_and_no_directory_at_all_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(contents(&directory.path().join("none"), None).is_empty());
        let file = directory.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = read(&file, u64::MAX, None, |_| ControlFlow::Continue(())).unwrap_err();
        assert!(error.to_string().contains("cannot read the events in"), "{error}");
    }

    #[test]
    fn what_is_damaged_is_counted_and_the_rest_is_read() {
        let (one, two, three) = (event(1), event(2), event(3));
        let mut bad = event(9);
        bad[20] ^= 1;
        let zeroes = vec![0; 3 * LINE_BYTES];
        let files = Files::of(&[
            (1, &[&begin(1), &one, &bad, b"\n\xff\n", &two, &three[..three.len() - 9]]),
            (2, &[&zeroes]),
            (3, &[&begin(2), &three, &zeroes, b"\n", &one, &two[..two.len() - 1]]),
        ]);
        assert_eq!(files.contents(), ["1", "d3", "2", "d1", "d1", "3", "d1", "1", "d1"]);
    }

    #[test]
    fn something_else_of_that_name_is_passed_over() {
        let files = Files::of(&[(1, &[&event(1)]), (4, &[&event(4)])]);
        std::os::unix::fs::symlink("/etc/passwd", segments::path(files.0.path(), 2)).unwrap();
        nix::unistd::mkfifo(&segments::path(files.0.path(), 3), nix::sys::stat::Mode::S_IRWXU)
            .unwrap();
        assert_eq!(files.contents(), ["1", "4"]);
    }

    #[test]
    fn an_event_knows_the_daemon_that_wrote_it() {
        let files = Files::of(&[
            (1, &[&event(1), &begin(10), &event(2)]),
            (2, &[&event(3), &begin(20), &event(4)]),
        ]);
        let mut found = Vec::new();
        read(files.0.path(), u64::MAX, None, |entry| {
            let Entry::Event { begin, .. } = entry else { panic!("{entry:?}") };
            found.push(begin.map(|begin| begin.boot_ms));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(found, [None, Some(10), None, Some(20)], "each file stands for itself");
    }

    #[test]
    fn the_newest_files_are_enough_and_what_was_written_since_is_left_out() {
        let files =
            Files::of(&[(1, &[&event(1)]), (2, &[&event(2)]), (3, &[&event(3), &event(4)])]);
        let directory = files.0.path();
        let extent = |segment, bytes| Some(Extent { segment, bytes });
        assert_eq!(contents(directory, extent(3, event(3).len() as u64)), ["1", "2", "3"]);
        assert_eq!(contents(directory, extent(2, u64::MAX)), ["1", "2"]);
        let mut first = None;
        read(directory, event(3).len() as u64 * 2 + 1, None, |entry| {
            first.get_or_insert(entry);
            ControlFlow::Break(())
        })
        .unwrap();
        assert!(matches!(first, Some(Entry::Event { number: 2, .. })), "{first:?}");
    }
}
