//! Taking back what was written and could not be put in force.

use std::io;

use super::{FILE_NAME, Left, Lists, RuleStore, StoreError, format::Extent, open_to_append};
use crate::policy::Reversal;

/// What takes back the last thing that a store was told.
#[derive(Debug)]
pub enum Undo {
    /// This is what there was, and nothing was written.
    OnTrial(Lists),
    /// This is what there was.
    Whole(Lists),
    /// A change that was appended to a file.
    Appended {
        /// What takes it back here.
        reversal: Reversal,
        /// The length of the file before.
        bytes: u64,
    },
}

impl RuleStore {
    /// Takes back what was done last.
    ///
    /// # Errors
    ///
    /// Here it is taken back, and on disk not.
    pub fn undo(&mut self, undo: Undo) -> Result<(), StoreError> {
        match undo {
            Undo::OnTrial(lists) => {
                drop(self.take_place(lists.rules, lists.names));
                Ok(())
            }
            Undo::Whole(lists) => {
                let written = self.write_whole(&lists.rules, &lists.names);
                drop(self.take_place(lists.rules, lists.names));
                written
            }
            Undo::Appended { reversal, bytes } => {
                reversal.undo(&mut self.rules, &mut self.names);
                let path = self.directory.join(FILE_NAME);
                let Some(left) = self.left.take() else {
                    let error = io::Error::other("it was not appended to");
                    return Err(StoreError::Write { path, error });
                };
                let changes = left.extent.changes.saturating_sub(1);
                let left = Left { bytes, extent: Extent { changes, ..left.extent }, ..left };
                let back = open_to_append(&path).and_then(|file| {
                    // From here on it does not count.
                    left.write_head(&file)?;
                    file.set_len(bytes)?;
                    file.sync_data()
                });
                back.map_err(|error| StoreError::Write { path, error })?;
                self.left = Some(left);
                Ok(())
            }
        }
    }
}
