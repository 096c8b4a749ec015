//! Modes that were set by command, kept on disk.
//!
//! The files stay the operator's, and nobody else writes to them. What is said by command holds for as long as they say what
//! they said then: whoever changes the mode of a service in a file has the last word.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use jiff::Timestamp;
use ollama_guard_common::Mode;
use serde::{Deserialize, Serialize};

use super::{StoreError, state_file};
use crate::policy::Service;

const VERSION: u32 = 1;
/// The file within the state directory.
const FILE_NAME: &str = "modes.json";
const MOST_BYTES: u64 = 1 << 20;

/// `enforce` or `observe`, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WrittenMode {
    /// Verdicts are carried out.
    Enforce,
    /// They are only told.
    Observe,
}

impl From<WrittenMode> for Mode {
    fn from(mode: WrittenMode) -> Self {
        match mode {
            WrittenMode::Enforce => Self::Enforce,
            WrittenMode::Observe => Self::Observe,
        }
    }
}

impl From<Mode> for WrittenMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Observe => Self::Observe,
        }
    }
}

impl fmt::Display for WrittenMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Mode::from(*self).name())
    }
}

/// What was said of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaidMode {
    /// What it is.
    pub mode: WrittenMode,
    /// What the configuration said at that time.
    pub configured: WrittenMode,
    /// Who said it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// What was said of services, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeStore {
    directory: PathBuf,
    said: BTreeMap<String, SaidMode>,
    /// What the file says.
    written: BTreeMap<String, SaidMode>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    services: BTreeMap<String, SaidMode>,
}

impl ModeStore {
    /// Reads what was said.
    ///
    /// # Errors
    ///
    /// If the file can't be read, trusted or understood.
    pub fn open(state_dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = state_dir.into();
        let path = directory.join(FILE_NAME);
        let content: Option<Content> = state_file::read(&path, MOST_BYTES)?;
        match content {
            Some(Content { version, .. }) if version != VERSION => {
                let problem = format!("it has version {version}, and this program knows {VERSION}");
                Err(StoreError::Damaged { path, problem })
            }
            content => {
                let said = content.map(|content| content.services).unwrap_or_default();
                Ok(Self { directory, written: said.clone(), said })
            }
        }
    }

    /// Gives services the modes that were said of them, where the configuration says what it said then.
    pub fn apply(&self, services: &mut [Service]) {
        for service in services {
            if let Some(said) = self.said_of(service) {
                service.mode = said.mode.into();
            }
        }
    }

    /// What was said of a service as it is configured, and holds.
    #[must_use]
    pub fn said_of(&self, configured: &Service) -> Option<&SaidMode> {
        let said = self.said.get(&*configured.name)?;
        (Mode::from(said.configured) == configured.mode && said.mode != said.configured)
            .then_some(said)
    }

    /// Says the mode of a service as it is configured.
    pub fn say(&mut self, configured: &Service, mode: Mode, by: &str, at: Timestamp) {
        let (mode, written) = (mode.into(), configured.mode.into());
        let said = SaidMode { mode, configured: written, by: by.to_owned(), at };
        self.said.insert(configured.name.to_string(), said);
    }

    /// Writes it down. What is said no more, because the configuration has these services and says something else or
    /// the same, is left out.
    ///
    /// # Errors
    ///
    /// The old file stays.
    pub fn write(&mut self, configured: &[Service]) -> Result<(), StoreError> {
        let holds: Vec<_> = configured
            .iter()
            .filter(|service| self.said_of(service).is_some())
            .map(|service| service.name.to_string())
            .collect();
        self.said.retain(|name, _| holds.contains(name));
        if self.said != self.written {
            let content = Content { version: VERSION, services: self.said.clone() };
            state_file::write(&self.directory, FILE_NAME, &content)?;
            self.written.clone_from(&self.said);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    fn service(mode: Mode) -> Service {
        Service::ollama(mode, ["11434".parse().unwrap()])
    }

    fn state() -> TempDir {
        let state = TempDir::new().unwrap();
        std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        state
    }

    fn applied(modes: &ModeStore, configured: Mode) -> Mode {
        let mut services = [service(configured)];
        modes.apply(&mut services);
        services[0].mode
    }

    #[test]
    fn what_is_said_holds_until_the_configuration_says_something_else() {
        let state = state();
        let mut modes = ModeStore::open(state.path()).unwrap();
        assert_eq!(applied(&modes, Mode::Observe), Mode::Observe);
        let observed = service(Mode::Observe);
        modes.say(&observed, Mode::Enforce, "ada", Timestamp::UNIX_EPOCH);
        modes.write(std::slice::from_ref(&observed)).unwrap();
        let modes = ModeStore::open(state.path()).unwrap();
        assert_eq!(applied(&modes, Mode::Observe), Mode::Enforce);
        assert_eq!(modes.said_of(&observed).unwrap().by, "ada");
        // The file says what the command said, and then is the only one that says something.
        assert_eq!(applied(&modes, Mode::Enforce), Mode::Enforce);
        let mut modes = modes;
        modes.write(&[service(Mode::Enforce)]).unwrap();
        assert_eq!(applied(&modes, Mode::Observe), Mode::Observe);
    }

    #[test]
    fn what_cannot_be_understood_is_not_taken_for_nothing() {
        let state = state();
        let path = state.path().join(FILE_NAME);
        for text in
            ["", "{}", r#"{"version":2,"services":{}}"#, r#"{"version":1,"services":{"a":1}}"#]
        {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(
                matches!(ModeStore::open(state.path()), Err(StoreError::Damaged { .. })),
                "{text}"
            );
        }
    }
}
