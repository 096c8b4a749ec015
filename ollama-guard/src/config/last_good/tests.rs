//! What was kept comes back to the letter, or not at all.

use std::collections::HashMap;

use super::*;
use crate::config::{Nowhere, Reading, read};

const NOTHING: &[(&str, &str)] = &[];

fn environment() -> HashMap<&'static str, &'static str> {
    NOTHING.iter().copied().collect()
}

/// A configuration of three files: a main one, a drop-in, and a list that it names.
struct Bed {
    directory: tempfile::TempDir,
    last_good: LastGood,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["state", "c.d"] {
            fs::create_dir(directory.path().join(name)).unwrap();
            let mode = Permissions::from_mode(0o700);
            fs::set_permissions(directory.path().join(name), mode).unwrap();
        }
        let last_good = LastGood::new(directory.path().join("state"));
        let bed = Self { directory, last_good };
        bed.write(
            "c.toml",
            "[groups.feed]\ninclude = \"feed.txt\"\n[[service]]\ndeny = [\"feed\"]\n",
        );
        bed.write("c.d/10-more.toml", "mode = \"observe\"\ninterfaces = [\"eth7\"]\n");
        bed.write("feed.txt", "203.0.113.66 # \u{fc}\n");
        bed
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }

    fn flags(&self) -> Overrides {
        let config = Some(self.directory.path().join("c.toml"));
        Overrides { config, ..Overrides::default() }
    }

    fn read(&self) -> Reading {
        read(&self.flags(), &environment(), &Nowhere)
    }

    /// Reads and keeps.
    fn keep(&self) -> Config {
        let Reading { transcript, config, .. } = self.read();
        let config = config.unwrap();
        self.last_good.keep(&transcript, &config).unwrap();
        config
    }

    fn instead(&self) -> Result<(Config, Timestamp), LastGoodError> {
        let main = self.read().transcript.main;
        self.last_good.instead(&self.flags(), &environment(), &Nowhere, &main)
    }

    fn kept_file(&self) -> PathBuf {
        self.last_good.path()
    }
}

#[test]
fn what_was_in_force_comes_back_whatever_became_of_the_files() {
    let bed = Bed::new();
    let good = bed.keep();
    assert_eq!(bed.instead().unwrap().0, good);
    assert_eq!(bed.last_good.recall().unwrap().interfaces, ["eth7"]);
    bed.write("c.toml", "mode = \"enfocre\"\n");
    bed.write("feed.txt", "198.51.100.1\n");
    bed.write("c.d/10-more.toml", "[[service]]\nallow = [\"192.0.2.1\"]\n");
    bed.write("c.d/20-new.toml", "[[service]]\nallow = [\"192.0.2.2\"]\n");
    assert!(bed.read().config.is_err());
    assert_eq!(bed.instead().unwrap().0, good);
    for name in ["c.toml", "feed.txt", "c.d/10-more.toml"] {
        fs::remove_file(bed.directory.path().join(name)).unwrap();
    }
    assert_eq!(bed.instead().unwrap().0, good);
    assert_eq!(fs::metadata(bed.kept_file()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn flags_and_environment_are_those_of_the_day() {
    let bed = Bed::new();
    bed.keep();
    let main = bed.read().transcript.main;
    let flags = Overrides { deny: vec!["192.0.2.9".into()], ..bed.flags() };
    let (config, _) = bed.last_good.instead(&flags, &environment(), &Nowhere, &main).unwrap();
    assert_eq!(config.rules.len(), 2);
}

#[test]
fn there_may_be_none_or_one_of_another_file() {
    let bed = Bed::new();
    assert!(matches!(bed.instead(), Err(LastGoodError::None { .. })));
    bed.keep();
    let other = bed.directory.path().join("other.toml");
    let flags = Overrides { config: Some(other.clone()), ..Overrides::default() };
    let refused = bed.last_good.instead(&flags, &environment(), &Nowhere, &other).unwrap_err();
    assert!(refused.to_string().contains("other.toml"), "{refused}");
}

#[test]
fn the_same_is_not_written_again_and_something_else_is() {
    let bed = Bed::new();
    bed.keep();
    let before = fs::read(bed.kept_file()).unwrap();
    bed.keep();
    assert_eq!(fs::read(bed.kept_file()).unwrap(), before);
    bed.write("feed.txt", "203.0.113.67\n");
    let good = bed.keep();
    assert_ne!(fs::read(bed.kept_file()).unwrap(), before);
    assert_eq!(bed.instead().unwrap().0, good);
}

#[test]
fn no_damage_goes_unnoticed() {
    let bed = Bed::new();
    bed.keep();
    let whole = fs::read(bed.kept_file()).unwrap();
    let put = |bytes: &[u8]| fs::write(bed.kept_file(), bytes).unwrap();
    for cut in 0..whole.len() {
        put(&whole[..cut]);
        assert!(bed.instead().is_err(), "cut at {cut}");
    }
    for at in 0..whole.len() {
        let mut other = whole.clone();
        other[at] ^= 1;
        put(&other);
        assert!(bed.instead().is_err(), "changed at {at}");
    }
    // By a later version of this program.
    let (_, body) = line(&whole).unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap().replacen(":1,", ":2,", 1);
    put(format!("{}\n{body}", sha256(std::iter::once(body.as_bytes()))).as_bytes());
    assert!(bed.instead().unwrap_err().to_string().contains("version 2"));
    put(&whole);
    fs::set_permissions(bed.kept_file(), Permissions::from_mode(0o622)).unwrap();
    assert!(matches!(bed.instead(), Err(LastGoodError::File { .. })));
}

#[test]
fn a_disk_that_takes_nothing_leaves_the_older_one() {
    let bed = Bed::new();
    let good = bed.keep();
    // In the way, also of root.
    fs::create_dir(bed.directory.path().join("state").join(NEW_FILE_NAME)).unwrap();
    bed.write("feed.txt", "203.0.113.67\n");
    let Reading { transcript, config, .. } = bed.read();
    let refused = bed.last_good.keep(&transcript, &config.unwrap()).unwrap_err();
    assert!(matches!(refused, LastGoodError::Write { .. }));
    assert_eq!(bed.instead().unwrap().0, good);
}
