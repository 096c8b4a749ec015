//! Taking everything of ours out of the kernel.

use std::{fs, io::ErrorKind};

use super::{DataplaneError, PinDir, Result, links, pins};

/// Removes links, programs, maps and the pin directory. Returns the interfaces that were covered.
///
/// The caller holds the lock, so that no daemon puts anything back. Removing a link's pin detaches
/// it: nobody else has it open. What others put into the directory is not touched.
pub fn detach_all(directory: &PinDir) -> Result<Vec<u32>> {
    let mut detached = Vec::new();
    for (ifindex, hook, _) in directory.pinned_links()? {
        links::remove(directory, hook, ifindex)?;
        detached.push(ifindex);
    }
    detached.dedup();
    for path in directory.link_remains()? {
        pins::unpin(&path)?;
    }
    for version in directory.versions()? {
        pins::remove_tree(&version)?;
    }
    for path in [directory.links().as_path(), directory.root()] {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                tracing::warn!("{} stays: it holds what is not ours", path.display());
            }
            // Made beforehand by root, or mounted there: whoever made it removes it.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::ResourceBusy
                ) =>
            {
                tracing::info!("{} stays, empty: it was made for this user", path.display());
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(DataplaneError::pin("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(detached)
}
