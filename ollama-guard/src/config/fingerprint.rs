//! Whether files have changed, without reading them.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// What tells a file that was written, replaced, removed or reached by another link from the one that
/// was there before. Of a directory: whether something was made, renamed or removed in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, Option<State>)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds. The time of the last change of contents can be set by anybody who may
    /// write, that of the inode can't.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Takes note of a file or directory as it is now. To be called before it is read: what changes in
    /// between is seen then. Links are followed.
    pub(super) fn note(&mut self, path: &Path) {
        self.0.push((path.to_owned(), State::of(path)));
    }

    /// The same files and directories as they are now.
    #[must_use]
    pub fn now(&self) -> Self {
        let mut now = Self::default();
        self.0.iter().for_each(|(path, _)| now.note(path));
        now
    }
}

impl State {
    /// `None` if it is not there, or out of reach.
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            bytes: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn writing_replacing_removing_and_leading_elsewhere_are_seen() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        for version in ["1", "2"] {
            fs::create_dir(at(version))?;
            fs::write(at(version).join("config"), "same")?;
        }
        symlink("1", at("data"))?;
        let mut first = Fingerprint::default();
        first.note(&at("data").join("config"));
        assert_eq!(first, first.now());
        // As a Kubernetes ConfigMap changes: the same name, the same text, another file.
        symlink("2", at("new"))?;
        fs::rename(at("new"), at("data"))?;
        let second = first.now();
        assert_ne!(first, second);
        fs::write(at("2").join("config"), "longer")?;
        let third = first.now();
        assert_ne!(second, third);
        fs::remove_file(at("2").join("config"))?;
        assert_ne!(third, first.now());
        Ok(())
    }

    #[test]
    fn what_comes_into_a_directory_is_seen() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        let mut empty = Fingerprint::default();
        empty.note(directory.path());
        fs::write(directory.path().join("10-office.toml"), "")?;
        assert_ne!(empty, empty.now());
        Ok(())
    }
}
