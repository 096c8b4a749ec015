//! Whether the kernel still has the policy that was put there, and putting it right.

use super::{Guard, GuardError};
use crate::dataplane::{Dataplane, DataplaneError, Found, InForce};

impl Guard<Dataplane> {
    /// Reads the policy in force back from the kernel. If it is not the one that was put there, it
    /// is put there again; what is on trial is taken back if the kernel's word on that was touched. Returns what
    /// was wrong.
    pub fn mend_policy(&mut self) -> Result<Option<String>, GuardError> {
        let found = self.sink.policy_in_force()?;
        let Some(problem) = self.problem(found) else { return Ok(None) };
        self.sink.distrust_policy();
        if found.found == Found::OtherTrial && self.trial.is_some() {
            // What would come back can't be told from the kernel any more.
            let trial = self.revert()?;
            let generation = self.generation;
            return Ok(Some(format!(
                "{problem}: {} is taken back, as generation {generation}",
                trial.what
            )));
        }
        self.apply()?;
        Ok(Some(format!("{problem}: put in force again, as generation {}", self.generation)))
    }

    /// What is wrong with the policy in force, read back from the kernel, if anything is.
    pub fn policy_problem(&self) -> Result<Option<String>, DataplaneError> {
        Ok(self.problem(self.sink.policy_in_force()?))
    }

    fn problem(&self, in_force: InForce) -> Option<String> {
        if self.is_trial_over() {
            // The kernel has gone back already, and this thread is about to hear of it.
            return None;
        }
        let mine = self.generation;
        Some(match in_force.found {
            // Nobody but this thread changes policies.
            Found::Unsteady => "the policy in force changes all the time".into(),
            Found::OtherTrial => {
                format!("what is on trial with generation {mine} was changed by somebody else")
            }
            _ if in_force.generation != mine => {
                format!("generation {} is in force instead of {mine}", in_force.generation)
            }
            Found::OtherTables => "the tables of rules in force are not the pinned ones".into(),
            Found::Digest(found) if found != self.digest.number() => {
                format!("ports or rules of generation {mine} were changed by somebody else")
            }
            Found::Digest(found) if found != in_force.written => {
                format!("the fingerprint of generation {mine} was changed by somebody else")
            }
            Found::Digest(_) => return None,
        })
    }
}
