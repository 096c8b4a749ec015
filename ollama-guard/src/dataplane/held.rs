//! Everything that is pinned is held open as well, so that a pin that is lost loses nothing.
//!
//! A pin is what keeps the filter when the daemon dies; the descriptor is what keeps it when
//! somebody removes the pin, or mounts another BPF file system in its place. As long as one of the
//! two is there, the other can be made again.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::{DataplaneError, PinDir, Result, links::Hook, pins, sys};

/// Descriptors, by the path of the pin below the pin directory.
#[derive(Debug, Default)]
pub(super) struct Held {
    objects: BTreeMap<PathBuf, OwnedFd>,
}

impl Held {
    /// Opens pins: after a change of our own, when what belongs there is there. One that is not
    /// there is left out.
    pub(super) fn take(
        &mut self,
        pins: &PinDir,
        paths: impl IntoIterator<Item = PathBuf>,
    ) -> Result<()> {
        for path in paths {
            match sys::obj_get(&path) {
                Ok(object) => self.objects.insert(below(pins, &path), object),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(DataplaneError::pin("open", path)(error)),
            };
        }
        Ok(())
    }

    /// Lets go of one pin's object.
    pub(super) fn forget(&mut self, pins: &PinDir, path: &Path) {
        self.objects.remove(&below(pins, path));
    }

    /// Opens the pins of the rules: of slots that are empty now, the old ones are let go of.
    pub(super) fn take_rules(&mut self, pins: &PinDir) -> Result<()> {
        for path in pins.rules() {
            self.forget(pins, &path);
        }
        self.take(pins, pins.rules())
    }

    /// Lets go of everything.
    pub(super) fn clear(&mut self) {
        self.objects.clear();
    }

    /// Puts every pin back that is missing or is another object's. Returns which, each with what
    /// was wrong. A link that has lost its interface is let go of: it filters nothing any more.
    pub(super) fn mend(&mut self, pins: &PinDir) -> Result<Vec<String>> {
        let dead = |below: &PathBuf, object: &OwnedFd| {
            // A clsact filter is no link: its pin is the program's.
            is_link(below)
                && sys::link_info(object.as_fd())
                    .is_ok_and(|link| link.ifindex == 0 && link.cgroup == 0)
        };
        self.objects.retain(|below, object| !dead(below, object));
        let mut mended = Vec::new();
        for (below, object) in &self.objects {
            let path = pins.root().join(below);
            let Some(problem) =
                problem(&path, object).map_err(DataplaneError::pin("look at", &path))?
            else {
                continue;
            };
            if let Some(parent) = path.parent() {
                pins::make_dir(parent)?;
            }
            pins::unpin(&path)?;
            sys::obj_pin(object.as_fd(), &path).map_err(DataplaneError::pin("pin", &path))?;
            mended.push(format!("the pin {} {problem}: pinned again", path.display()));
        }
        Ok(mended)
    }
}

fn is_link(below: &Path) -> bool {
    let name = below.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    below.starts_with("links") && !name.starts_with(Hook::Clsact.name())
}

/// What is wrong with a pin, if anything.
fn problem(path: &Path, object: &OwnedFd) -> io::Result<Option<&'static str>> {
    let pinned = match sys::obj_get(path) {
        Ok(pinned) => pinned,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some("was gone")),
        // No object of the kernel's, or one that we may not open: whatever it is, it is not ours.
        Err(_) => return Ok(Some("was something else")),
    };
    let is_ours = sys::identity(pinned.as_fd())? == sys::identity(object.as_fd())?;
    Ok((!is_ours).then_some("was another object"))
}

/// Where a pin stands below the pin directory.
fn below(pins: &PinDir, path: &Path) -> PathBuf {
    path.strip_prefix(pins.root()).unwrap_or(path).to_owned()
}
