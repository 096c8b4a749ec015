//! Where this machine gets its Debian packages, found in its own configuration.
//!
//! No host is named in this repository. The machine's sources are only read; what is made of them
//! is a private list with another suite.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, ensure};

/// Suites that the archive itself has, beside the one that the machine runs.
const NAMES_OF_SUITES: [&str; 4] = ["stable", "testing", "unstable", "sid"];

/// A Debian archive, as the machine's configuration names it.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirror {
    uri: String,
    /// The keyring that its releases are signed by, where the configuration names one.
    signed_by: Option<String>,
}

/// One entry of the configuration.
#[derive(Debug, Default)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Mirror {
    /// The first archive of Debian itself that the configuration names.
    pub fn of_this_machine() -> anyhow::Result<Self> {
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            let value = os_release.lines().find_map(|line| line.strip_prefix(name));
            value.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
        };
        ensure!(
            field("ID=") == "debian",
            "what is fetched is Debian's, and this machine's package sources are not: run this on Debian"
        );
        let mut entries = Vec::new();
        for file in configuration()? {
            // A file that cannot be read is none that apt could read.
            let text = fs::read_to_string(&file).unwrap_or_default();
            let is_deb822 = file.extension().is_some_and(|extension| extension == "sources");
            entries.extend(if is_deb822 { stanzas(&text) } else { lines(&text) });
        }
        Self::among(&entries, &field("VERSION_CODENAME=")).context(
            "/etc/apt/sources.list and sources.list.d name no archive with the component `main` of \
             this Debian",
        )
    }

    fn among(entries: &[Entry], codename: &str) -> Option<Self> {
        let is_suite = |suite: &String| suite == codename || NAMES_OF_SUITES.contains(&&**suite);
        let entry = entries.iter().find(|entry| {
            entry.components.iter().any(|component| component == "main")
                && entry.suites.iter().any(is_suite)
        })?;
        Some(Self { uri: entry.uris.first()?.clone(), signed_by: entry.signed_by.clone() })
    }

    /// A source list for one suite, of packages (`deb`), of their sources (`deb-src`), or both.
    pub fn source_list(&self, kinds: &[&str], suite: &str) -> String {
        let signed_by = self.signed_by.as_ref().map(|path| format!(" signed-by={path}"));
        let options = format!("arch=amd64{}", signed_by.unwrap_or_default());
        let line = |kind: &&str| format!("{kind} [{options}] {} {suite} main\n", self.uri);
        kinds.iter().map(line).collect()
    }
}

fn configuration() -> anyhow::Result<Vec<PathBuf>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(directory) = fs::read_dir("/etc/apt/sources.list.d") {
        for entry in directory {
            files.push(entry?.path());
        }
    }
    files.sort();
    Ok(files)
}

/// The one-line style: `deb [option=value ...] URI SUITE COMPONENT...`.
fn lines(text: &str) -> Vec<Entry> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Entry> {
    let mut rest = line.trim().strip_prefix("deb ")?.trim_start();
    let mut signed_by = None;
    if let Some(options) = rest.strip_prefix('[') {
        let (options, behind) = options.split_once(']')?;
        signed_by = options.split(' ').find_map(|option| option.strip_prefix("signed-by="));
        rest = behind;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Entry {
        uris: vec![words.next()?],
        suites: vec![words.next()?],
        components: words.collect(),
        signed_by: signed_by.map(str::to_owned),
    })
}

/// The deb822 style: stanzas of `Field: value`, with further lines of a value indented.
fn stanzas(text: &str) -> Vec<Entry> {
    text.split("\n\n").filter_map(stanza).collect()
}

fn stanza(text: &str) -> Option<Entry> {
    let field = |name: &str| {
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    };
    let words = |name: &str| -> Vec<String> {
        field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let is_off = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    (words("Types").iter().any(|kind| kind == "deb") && !is_off).then(|| Entry {
        uris: words("URIs"),
        suites: words("Suites"),
        components: words("Components"),
        // A key that stands there itself begins on the next line: then apt's own keys must do.
        signed_by: field("Signed-By").filter(|path| path.starts_with('/')).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb\nURIs: https://tools.example/apt\nSuites: bookworm\n\
                          Components: contrib\n\n# a comment\nTypes: deb deb-src\n\
                          URIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                          Components: main\nSigned-By: /usr/share/keyrings/debian.gpg\n";

    fn found(entries: &[Entry]) -> Option<String> {
        Mirror::among(entries, "bookworm").map(|mirror| mirror.source_list(&["deb"], "sid"))
    }

    #[test]
    fn both_styles_lead_to_the_archive_of_debian_with_its_keyring() {
        let expected = "deb [arch=amd64 signed-by=/usr/share/keyrings/debian.gpg] \
                        http://mirror.example/debian sid main\n";
        assert_eq!(found(&stanzas(DEB822)).as_deref(), Some(expected));
        let one_line = "# deb http://old.example/debian bookworm main\n\
                        deb http://mirror.example/debian bookworm-security main\n\
                        deb [signed-by=/usr/share/keyrings/debian.gpg] \
                        http://mirror.example/debian bookworm main contrib\n";
        assert_eq!(found(&lines(one_line)).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_switched_off_or_has_no_main_is_none() {
        let off = DEB822.replace("Types: deb deb-src", "Enabled: no\nTypes: deb");
        assert_eq!(found(&stanzas(&off)), None);
        assert_eq!(found(&lines("deb http://mirror.example/debian bookworm contrib\n")), None);
    }

    #[test]
    fn without_a_keyring_apts_own_are_used() {
        let list = found(&lines("deb http://mirror.example/debian stable main\n"));
        assert_eq!(
            list.as_deref(),
            Some("deb [arch=amd64] http://mirror.example/debian sid main\n")
        );
    }
}
