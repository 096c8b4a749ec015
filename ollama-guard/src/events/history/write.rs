//! Writing, bounded in size and in pace.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use jiff::Timestamp;

use super::{
    Allowance,
    line::{Begin, Numbered, Record},
    read::{Extent, HistoryError, first_time},
    segments::{self, Segment},
};
use crate::events::Event;

/// Into how many files all that is kept is divided.
const PARTS: u64 = 8;
/// Bytes that are handed to the kernel at a time, at most one line more.
const BATCH: usize = 16 * 1024;

/// The one that writes. Whoever holds it blocks for as long as the disk does.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    begin: Begin,
    /// Bytes that all files may hold.
    keep: u64,
    allowance: Allowance,
    /// All files but the current one, the oldest first.
    older: VecDeque<Segment>,
    current: Option<Current>,
    /// Whether the current file says who writes.
    has_begun: bool,
    /// Events not written since the last one that was.
    unwritten: u64,
    /// All events that were not written.
    given_up: u64,
    oldest: Option<Timestamp>,
}

#[derive(Debug)]
struct Current {
    segment: Segment,
    file: File,
}

/// Lines on their way.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    events: u64,
}

impl Writer {
    /// A writer for a state directory, of which nothing is touched yet. `keep` is in bytes; 0 keeps
    /// nothing.
    #[must_use]
    pub fn new(state_dir: &Path, keep: u64, begin: Begin, now: Instant) -> Self {
        Self {
            directory: segments::directory(state_dir),
            begin,
            keep,
            allowance: Allowance::new(keep, now),
            older: VecDeque::new(),
            current: None,
            has_begun: false,
            unwritten: 0,
            given_up: 0,
            oldest: None,
        }
    }

    /// Opens what is there, so that its size is known and is no more than it may be.
    ///
    /// # Errors
    ///
    /// If the directory or a file can't be made or opened. The next call tries afresh.
    pub fn open(&mut self) -> Result<(), HistoryError> {
        if self.keep == 0 {
            return self.clear();
        }
        let trouble = |source| HistoryError::Directory { path: self.directory.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(trouble)?;
        self.older = segments::list(&self.directory).map_err(trouble)?.into();
        let number = self.older.pop_back().map_or(1, |last| last.number);
        self.open_segment(number)?;
        self.make_room(0)?;
        self.look_back();
        Ok(())
    }

    /// Writes as many of these events as may be written now, with their numbers in the journal.
    ///
    /// # Errors
    ///
    /// If the disk refuses. What is not written is counted as such, the files are as they were, and the
    /// next call tries afresh.
    pub fn append(
        &mut self,
        events: &[(u64, Arc<Event>)],
        now: Instant,
    ) -> Result<(), HistoryError> {
        let mut lines = Lines::default();
        let mut told = Ok(());
        for (number, event) in events {
            let record = Record::Event(Numbered { number: *number, event: Arc::clone(event) });
            let line = record.line().unwrap_or_default();
            let may = self.keep > 0 && !line.is_empty() && told.is_ok();
            if !may || !self.allowance.take(line.len(), self.keep, now) {
                self.give_up(1);
                continue;
            }
            lines.bytes.extend_from_slice(&line);
            lines.events += 1;
            if lines.bytes.len() >= BATCH {
                told = self.write(std::mem::take(&mut lines));
            }
        }
        if lines.events > 0 {
            told = told.and(self.write(lines));
        }
        told
    }

    /// So many events will not be written.
    pub const fn give_up(&mut self, events: u64) {
        self.unwritten += events;
        self.given_up += events;
    }

    /// Events that were not written so far.
    #[must_use]
    pub const fn given_up(&self) -> u64 {
        self.given_up
    }

    /// From now on the files may hold so many bytes.
    ///
    /// # Errors
    ///
    /// If what is too much can't be removed.
    pub fn set_keep(&mut self, keep: u64) -> Result<(), HistoryError> {
        if keep == self.keep {
            return Ok(());
        }
        self.keep = keep;
        self.open()
    }

    /// Bytes that the files may hold.
    #[must_use]
    pub const fn keep(&self) -> u64 {
        self.keep
    }

    /// Bytes that they hold.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let current = self.current.as_ref().map_or(0, |current| current.segment.bytes);
        self.older.iter().map(|segment| segment.bytes).sum::<u64>() + current
    }

    /// The time of the oldest event.
    #[must_use]
    pub const fn oldest(&self) -> Option<Timestamp> {
        self.oldest
    }

    /// How far the files are written. `None` if none is open.
    #[must_use]
    pub fn extent(&self) -> Option<Extent> {
        let Segment { number: segment, bytes } = self.current.as_ref()?.segment;
        Some(Extent { segment, bytes })
    }

    fn write(&mut self, lines: Lines) -> Result<(), HistoryError> {
        let outcome = self.try_write(&lines.bytes);
        match &outcome {
            Ok(()) => self.unwritten = 0,
            Err(_) => {
                self.give_up(lines.events);
                // Opened anew, which also ends a line that was cut.
                self.current = None;
            }
        }
        if self.oldest.is_none() {
            self.look_back();
        }
        outcome
    }

    fn try_write(&mut self, lines: &[u8]) -> Result<(), HistoryError> {
        if self.current.as_ref().is_none_or(|current| current.was_moved_away(&self.directory)) {
            self.open()?;
        }
        let is_full = |current: &Current| {
            let bytes = current.segment.bytes;
            bytes > 0 && bytes + lines.len() as u64 > self.keep / PARTS
        };
        if let Some(full) = self.current.take_if(|current| is_full(current)) {
            self.older.push_back(full.segment);
            self.open_segment(full.segment.number + 1)?;
        }
        let mut head = Vec::new();
        let encode =
            |record: Record| record.line().map_err(|error| self.trouble(io::Error::from(error)));
        if !self.has_begun {
            head.extend(encode(Record::Begin(self.begin.clone()))?);
        }
        if self.unwritten > 0 {
            head.extend(encode(Record::Unwritten(self.unwritten))?);
        }
        head.extend_from_slice(lines);
        self.make_room(head.len() as u64)?;
        let Some(current) = &mut self.current else { return Ok(()) };
        if let Err(source) = current.append(&head) {
            return Err(self.trouble(source));
        }
        self.has_begun = true;
        Ok(())
    }

    fn open_segment(&mut self, number: u64) -> Result<(), HistoryError> {
        self.has_begun = false;
        let opened = Current::open(&self.directory, number);
        let path = || segments::path(&self.directory, number);
        let current = opened.map_err(|source| HistoryError::Write { path: path(), source })?;
        self.current = Some(current);
        Ok(())
    }

    /// Removes the oldest files until so many bytes more may be written.
    fn make_room(&mut self, more: u64) -> Result<(), HistoryError> {
        while self.bytes() + more > self.keep
            && let Some(oldest) = self.older.pop_front()
        {
            remove(&self.directory, oldest.number)?;
            self.look_back();
        }
        // Only after `keep` was made smaller.
        if let Some(current) = &mut self.current
            && current.segment.bytes + more > self.keep
        {
            let number = current.segment.number;
            remove(&self.directory, number)?;
            self.open_segment(number + 1)?;
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), HistoryError> {
        (self.current, self.oldest) = (None, None);
        self.older.clear();
        for segment in segments::list(&self.directory).unwrap_or_default() {
            remove(&self.directory, segment.number)?;
        }
        Ok(())
    }

    fn look_back(&mut self) {
        let current = self.current.as_ref().map(|current| current.segment);
        let mut all = self.older.iter().copied().chain(current);
        self.oldest = all.find_map(|segment| first_time(&self.directory, segment.number));
    }

    fn trouble(&self, source: io::Error) -> HistoryError {
        let number = self.current.as_ref().map_or(0, |current| current.segment.number);
        HistoryError::Write { path: segments::path(&self.directory, number), source }
    }
}

impl Current {
    fn open(directory: &Path, number: u64) -> io::Result<Self> {
        let mut file = segments::open_to_append(directory, number)?;
        let mut bytes = file.seek(SeekFrom::End(0))?;
        // A line that a crash or a full disk has cut off must not swallow the next one.
        if bytes > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        Ok(Self { segment: Segment { number, bytes }, file })
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(lines);
        if written.is_err() {
            // If this fails too, opening ends the line.
            let _ = self.file.set_len(self.segment.bytes);
        } else {
            self.segment.bytes += lines.len() as u64;
        }
        written
    }

    /// Whether the open file is no longer the one of that name.
    fn was_moved_away(&self, directory: &Path) -> bool {
        let named = fs::symlink_metadata(segments::path(directory, self.segment.number));
        match (named, self.file.metadata()) {
            (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
            _ => true,
        }
    }
}

fn remove(directory: &Path, number: u64) -> Result<(), HistoryError> {
    let path = segments::path(directory, number);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(HistoryError::Write { path, source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
