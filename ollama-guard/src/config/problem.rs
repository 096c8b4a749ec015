//! What is wrong with a configuration, and where.

use std::{error::Error, fmt, path::PathBuf};

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Line and column, both counted from 1, the column in characters; `None` for the file as
        /// a whole.
        position: Option<(usize, usize)>,
    },
    /// In a variable of the environment, by name.
    Variable(&'static str),
    /// In a flag, by name with its hyphens.
    Flag(&'static str),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Everything that is wrong, in the order of the places. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// `None` if there is no problem.
    pub(super) fn new(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, position: Some((line, column)) } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::File { path, position: None } => path.display().fmt(f),
            Self::Variable(name) => write!(f, "{name} in the environment"),
            Self::Flag(name) => write!(f, "{name} on the command line"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl fmt::Display for Problems {
    /// One line for each, and of very many the first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 100;
        for (position, problem) in self.0.iter().take(MOST).enumerate() {
            let end = if position == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        match self.0.len().saturating_sub(MOST) {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more problems"),
        }
    }
}

impl Error for Problems {}
