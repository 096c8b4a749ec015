//! Taking everything of ours out of the kernel.

use std::fs;

use super::{DataplaneError, PinDir, Result, pins};

/// Removes links, programs, maps and the pin directory. Returns the interfaces that were covered.
///
/// The caller holds the lock, so that no daemon puts anything back. Removing a link's pin detaches
/// it: nobody else has it open.
pub fn detach_all(directory: &PinDir) -> Result<Vec<u32>> {
    let mut detached = Vec::new();
    for (ifindex, path) in directory.pinned_links()? {
        pins::unpin(&path)?;
        detached.push(ifindex);
    }
    for entry in
        fs::read_dir(directory.root()).map_err(DataplaneError::pin("read", directory.root()))?
    {
        let path = entry.map_err(DataplaneError::pin("read", directory.root()))?.path();
        if path.is_dir() {
            pins::remove_tree(&path)?;
        } else {
            pins::unpin(&path)?;
        }
    }
    fs::remove_dir(directory.root()).map_err(DataplaneError::pin("remove", directory.root()))?;
    Ok(detached)
}
