//! The last addresses of host names, kept on disk: a daemon that starts before the network is there has them.
//!
//! A memory, and not the word of anybody: a file that can't be used is said and done without.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{StoreError, state_file};
use crate::policy::HostName;

const VERSION: u32 = 1;
/// The file within the state directory.
const FILE_NAME: &str = "names.json";
/// The largest file that is read: many times what the most names with the most addresses take.
const MOST_BYTES: u64 = 4 << 20;

/// What a name had last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastAnswer {
    /// The name.
    pub name: HostName,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// When it was answered.
    pub resolved: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    names: Vec<LastAnswer>,
}

/// Where they are kept.
#[derive(Debug)]
pub struct AnswerStore {
    directory: PathBuf,
}

impl AnswerStore {
    /// Of this state directory, and what is kept there.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, trusted or understood.
    pub fn open(state_dir: &Path) -> (Self, Result<Vec<LastAnswer>, StoreError>) {
        let path = state_dir.join(FILE_NAME);
        let content: Result<Option<Content>, _> = state_file::read(&path, MOST_BYTES);
        let names = content.and_then(|content| match content {
            None => Ok(Vec::new()),
            Some(Content { version: VERSION, names }) => Ok(names),
            Some(Content { version, .. }) => {
                Err(StoreError::Version { path, version, known: VERSION })
            }
        });
        (Self { directory: state_dir.to_owned() }, names)
    }

    /// Keeps these and no others.
    ///
    /// # Errors
    ///
    /// The old ones stay.
    pub fn keep(&self, names: Vec<LastAnswer>) -> Result<(), StoreError> {
        state_file::write(&self.directory, FILE_NAME, &Content { version: VERSION, names })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn answers_are_kept_and_rubbish_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let (store, none) = AnswerStore::open(directory.path());
        assert!(none.unwrap().is_empty());
        let answer = LastAnswer {
            name: "home.example.org".parse().unwrap(),
            addresses: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
            resolved: "2026-12-01T12:00:00Z".parse().unwrap(),
        };
        store.keep(vec![answer.clone()]).unwrap();
        assert_eq!(AnswerStore::open(directory.path()).1.unwrap(), [answer]);
        let path = directory.path().join(FILE_NAME);
        for text in ["", "{", "{\"version\":2,\"names\":[]}", "{\"version\":1,\"names\":[1]}"] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(AnswerStore::open(directory.path()).1.is_err(), "{text}");
        }
    }
}
