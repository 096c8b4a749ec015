//! What was seen, in figures: a table for people, and what commands printed on the way.

use std::{fmt, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

/// A row for every chapter, and what was printed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    rows: Vec<(String, String)>,
    shown: Vec<(String, String)>,
    pictures: Vec<(&'static str, String)>,
}

impl Report {
    /// Adds what came of a chapter.
    pub(super) fn row(&mut self, what: &str, figure: impl Into<String>) {
        self.rows.push((what.to_owned(), figure.into()));
    }

    /// Keeps what a command printed.
    pub(super) fn show(&mut self, command: &str, printed: &str) {
        self.shown.push((command.to_owned(), printed.trim_end().to_owned()));
    }

    /// Keeps a picture, which is an SVG by this name.
    pub(super) fn picture(&mut self, name: &'static str, svg: String) {
        self.pictures.push((name, svg));
    }

    /// Writes the pictures into a directory.
    ///
    /// # Errors
    ///
    /// If one can't be written.
    pub fn write_pictures(&self, directory: &Path) -> Result<()> {
        for (name, svg) in &self.pictures {
            let path = directory.join(name);
            fs::write(&path, svg).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | seen |\n| --- | --- |")?;
        for (what, figure) in &self.rows {
            writeln!(f, "| {what} | {figure} |")?;
        }
        for (command, printed) in &self.shown {
            writeln!(f, "\n```console\n$ {command}\n{printed}\n```")?;
        }
        Ok(())
    }
}

/// A time in words.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
