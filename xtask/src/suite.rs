//! Debian packages of a named suite, whatever suite the machine runs.
//!
//! Everything of apt's is private, in a directory of the caller's: its lists, its cache, its sources. The system's
//! own are not touched, and no root is needed. Nothing is installed: packages are unpacked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{command, mirror::Mirror};

/// apt, kept apart from the system's.
pub struct Suite {
    directory: PathBuf,
}

impl Suite {
    /// A suite whose lists are kept in `apt/` of a directory.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf() }
    }

    /// A program of apt's that knows this suite and no other.
    pub fn command(&self, program: &str) -> Command {
        let at = |name: &str| self.directory.join("apt").join(name).display().to_string();
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        for (option, value) in [
            ("Dir::State::Lists", at("lists")),
            // Nothing is installed as far as this apt knows: the system has no say in names.
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("cache")),
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", "-".into()),
            // The machine's own preferences are about the machine's own suites.
            ("Dir::Etc::preferencesparts", at("nothing")),
            ("Dir::Etc::preferences", at("nothing/here")),
            // The user that apt downloads as by default may not write into our directories.
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
            ("Acquire::Retries", "2".into()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    }

    /// Fetches the lists of one suite, of these kinds (`deb`, `deb-src`). Returns how much that was, in words.
    pub fn update(&self, mirror: &Mirror, kinds: &[&str], suite: &str) -> anyhow::Result<String> {
        let private = self.directory.join("apt");
        for directory in ["lists/partial", "cache/archives/partial", "nothing"] {
            fs::create_dir_all(private.join(directory))?;
        }
        fs::write(private.join("status"), "")?;
        fs::write(private.join("sources.list"), mirror.source_list(kinds, suite))?;
        let said = command::output(self.command("apt-get").args([
            "-q",
            "--error-on=any",
            "update",
        ]))
        .with_context(|| {
            format!(
                "the package lists of {suite} could not be fetched; if its signature is what \
                     failed, a newer debian-archive-keyring is needed"
            )
        })?;
        // "Fetched 8,788 kB in 1s (9,123 kB/s)"; nothing of the kind if nothing is new.
        let fetched = said.lines().find_map(|line| line.strip_prefix("Fetched "));
        Ok(fetched.and_then(|line| line.split(" in ").next()).unwrap_or("0 B").to_owned())
    }

    /// Downloads packages (`NAME` or `NAME=VERSION`) and unpacks them into a directory that is there only if
    /// it is complete. Returns the bytes downloaded.
    pub fn unpack(&self, packages: &[String], root: &Path) -> anyhow::Result<u64> {
        let (debs, half) = (self.directory.join("debs"), self.directory.join("half"));
        for directory in [&debs, &half] {
            let _ = fs::remove_dir_all(directory);
            fs::create_dir_all(directory)?;
        }
        let mut download = self.command("apt-get");
        download.args(["-qq", "download"]).current_dir(&debs).args(packages);
        command::run_quietly(&mut download)?;
        let mut bytes = 0;
        for deb in fs::read_dir(&debs)? {
            let deb = deb?.path();
            bytes += fs::metadata(&deb)?.len();
            command::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&half))?;
        }
        fs::remove_dir_all(&debs)?;
        fs::rename(&half, root).with_context(|| format!("making {}", root.display()))?;
        Ok(bytes)
    }

    /// Downloads a source package and unpacks it, with Debian's patches, into a directory that is not there
    /// yet. Returns its version.
    pub fn unpack_source(&self, package: &str, tree: &Path) -> anyhow::Result<String> {
        let place = self.directory.join("source");
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place)?;
        let mut download = self.command("apt-get");
        download.args(["-qq", "--download-only", "source", package]).current_dir(&place);
        command::run_quietly(&mut download)?;
        let mut described = None;
        for entry in fs::read_dir(&place)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "dsc") {
                described = Some(path);
            }
        }
        let described = described.with_context(|| format!("{package} came without a .dsc"))?;
        let text = fs::read_to_string(&described)?;
        let version = field(&text, "Version").context("a source without a version")?.to_owned();
        // apt has checked the signatures on the way to it.
        let mut unpack = Command::new("dpkg-source");
        unpack.args(["--no-check", "--extract"]).arg(&described).arg(tree);
        command::run_quietly(&mut unpack)?;
        fs::remove_dir_all(&place)?;
        Ok(version)
    }
}

/// A field of one line, as apt prints them.
pub fn field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}
