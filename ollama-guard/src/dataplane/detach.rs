//! Taking everything of ours out of the kernel.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};

use super::{DataplaneError, PinDir, Result, counters::INNER_DOOR, inner, links, pins};

/// Removes links, programs, maps and the pin directory. Returns the interfaces that were covered, and
/// [`INNER_DOOR`] for the inner door.
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
    if inner::remove(directory)? {
        detached.push(INNER_DOOR);
    }
    for path in directory.link_remains()? {
        pins::unpin(&path)?;
    }
    for version in directory.versions()? {
        pins::remove_tree(&version)?;
    }
    for path in [directory.links().as_path(), directory.root()] {
        remove_dir(path)?;
    }
    // Where the kernel said that something was not there, it was passed over: what is there now is the
    // measure of what was done.
    match remains(directory)?.pop() {
        None => Ok(detached),
        Some(path) => {
            let error = io::Error::other("it is still there");
            Err(DataplaneError::pin("remove", path)(error))
        }
    }
}

/// What of ours is pinned there: links, programs and maps, and what is left of such. Nothing is only an empty
/// directory, or none.
///
/// # Errors
///
/// If it can't be read.
pub fn remains(directory: &PinDir) -> Result<Vec<PathBuf>> {
    if !directory.root().exists() {
        return Ok(Vec::new());
    }
    let mut left: Vec<PathBuf> = directory.link_remains()?;
    left.extend(directory.versions()?);
    left.extend(directory.pinned_links()?.into_iter().map(|(.., path)| path));
    Ok(left)
}

/// Removes a directory that is empty by now. One that holds what is not ours, or that was made for us by
/// somebody else, stays.
fn remove_dir(path: &Path) -> Result<()> {
    let Err(error) = fs::remove_dir(path) else {
        return Ok(());
    };
    if !path.exists() {
        return Ok(());
    }
    match error.kind() {
        ErrorKind::DirectoryNotEmpty => {
            tracing::warn!("{} stays: it holds what is not ours", path.display());
            Ok(())
        }
        // Whoever made it removes it.
        ErrorKind::PermissionDenied | ErrorKind::ResourceBusy | ErrorKind::ReadOnlyFilesystem
            if was_made_for_us(path) =>
        {
            tracing::info!("{} stays, empty: it was made for this user", path.display());
            Ok(())
        }
        _ => Err(DataplaneError::pin("remove", path)(error)),
    }
}

/// Whether a file system is mounted there, or this user may not change the directory that it is in.
fn was_made_for_us(path: &Path) -> bool {
    let Some(above) = path.parent() else {
        return true;
    };
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(path) != device(above) || access(above, AccessFlags::W_OK).is_err()
}
