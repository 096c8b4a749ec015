//! An initramfs: a cpio archive of the "newc" kind (Documentation/driver-api/early-userspace/
//! buffer-format.rst of the kernel). Not compressed: an emulated processor unpacks slowly.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive being written, in memory.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    known: BTreeSet<PathBuf>,
}

impl Archive {
    /// Adds a directory and those that it is in.
    pub fn directory(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        let relative = path.strip_prefix("/").unwrap_or(path);
        if relative.as_os_str().is_empty() || self.known.contains(relative) {
            return;
        }
        if let Some(parent) = relative.parent() {
            self.directory(parent);
        }
        self.known.insert(relative.to_path_buf());
        self.entry(&relative.to_string_lossy(), DIRECTORY, &[]);
    }

    /// Adds a file that may be executed, unless one of this name is there.
    pub fn file(&mut self, path: impl AsRef<Path>, content: &[u8]) {
        let path = path.as_ref();
        let relative = path.strip_prefix("/").unwrap_or(path);
        if self.known.contains(relative) {
            return;
        }
        if let Some(parent) = relative.parent() {
            self.directory(parent);
        }
        self.known.insert(relative.to_path_buf());
        self.entry(&relative.to_string_lossy(), PROGRAM, content);
    }

    /// Writes it.
    pub fn write(mut self, path: &Path) -> anyhow::Result<()> {
        self.entry("TRAILER!!!", 0, &[]);
        fs::write(path, self.bytes).with_context(|| format!("writing {}", path.display()))
    }

    /// A header of 13 numbers with eight hexadecimal digits each, the name and the content, both
    /// up to a multiple of four.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        let header = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend(b"070701");
        for number in header {
            self.bytes.extend(format!("{number:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_form_that_the_kernel_reads() {
        let mut archive = Archive::default();
        archive.file("/a/b", b"text!");
        archive.file("a/b", b"another of the same name");
        let text = String::from_utf8_lossy(&archive.bytes).into_owned();
        let directory = "070701000000010000 41ed".replace(' ', "");
        assert!(text.starts_with(&directory), "{text}");
        assert_eq!(text.matches("070701").count(), 2, "{text}");
        // The second header begins at a multiple of four, and so does what follows the name.
        let second = 6 + 13 * 8 + 2;
        assert_eq!(&text[second..second + 6], "070701");
        assert_eq!(&text[second + 110..second + 114], "a/b\0");
        assert!(text.ends_with("text!\0\0\0"), "{text:?}");
        assert_eq!(archive.bytes.len() % 4, 0);
    }
}
