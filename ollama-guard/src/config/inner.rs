//! The inner door: whether there is one, and where.

use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
};

use super::value;
use crate::policy::quoted;

/// What is said about the inner door.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inner {
    /// Whether there is to be one. There is unless somebody says otherwise.
    pub enable: Option<bool>,
    /// The cgroup whose processes it is for. All of the machine's, if none is named.
    pub cgroup: Option<PathBuf>,
}

impl Inner {
    /// Whether there is to be one.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.enable.unwrap_or(true)
    }

    /// Whether somebody has said in so many words that there is to be one.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.enable == Some(true)
    }

    /// This over what a weaker source says.
    pub(super) fn over(self, weaker: Self) -> Self {
        Self { enable: self.enable.or(weaker.enable), cgroup: self.cgroup.or(weaker.cgroup) }
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_wanted(), &self.cgroup) {
            (false, _) => f.write_str("off"),
            (true, None) => f.write_str("on"),
            (true, Some(cgroup)) => write!(f, "on, at {}", cgroup.display()),
        }
    }
}

/// `on`, `off`, or the directory of a cgroup.
pub(super) fn inner(written: &OsStr) -> Result<Inner, String> {
    match written.to_str() {
        Some("on") => Ok(Inner { enable: Some(true), cgroup: None }),
        Some("off") => Ok(Inner { enable: Some(false), cgroup: None }),
        _ if Path::new(written).is_absolute() => {
            Ok(Inner { enable: Some(true), cgroup: Some(value::path(written)?) })
        }
        _ => {
            let text = quoted(&written.to_string_lossy());
            Err(format!(
                "{text} is not possible: write on, off, or the whole path of a cgroup's directory"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Inner, String> {
        inner(OsStr::new(text))
    }

    #[test]
    fn it_is_there_unless_somebody_says_otherwise() {
        assert!(Inner::default().is_wanted() && !Inner::default().is_confirmed());
        assert!(said("on").unwrap().is_confirmed());
        assert!(!said("off").unwrap().is_wanted());
        let somewhere = said("/sys/fs/cgroup/one").unwrap();
        assert_eq!(somewhere.to_string(), "on, at /sys/fs/cgroup/one");
        assert!(said("cgroup/one").unwrap_err().contains("the whole path"));
    }

    #[test]
    fn a_stronger_source_may_say_half_of_it() {
        let file = said("/sys/fs/cgroup/one").unwrap();
        assert_eq!(said("off").unwrap().over(file.clone()).to_string(), "off");
        assert_eq!(Inner::default().over(file.clone()), file);
        let moved = Inner { enable: None, cgroup: Some("/two".into()) };
        assert_eq!(moved.over(file).to_string(), "on, at /two");
    }
}
