//! What a change would come to, and whom it would shut out, before it is made.

use std::sync::Arc;

use super::{
    Beside, Guard, GuardError, Moment, lets_in_nobody,
    naming::derive,
    plan::{self, Plan, Planned},
    shut_out::shut_out,
};
use crate::{
    control::protocol::{Edit, EditReply},
    dataplane::PolicySink,
    policy::Origin,
};

impl<S: PolicySink> Guard<S> {
    /// What a change would do. Nothing is done.
    pub fn preview(&self, edit: &Edit, by: &str, now: &Moment) -> Result<EditReply, GuardError> {
        self.refuse_on_trial(now)?;
        let origin = Arc::new(Origin::Cli { by: by.to_owned(), at: now.wall });
        let (rules, names) = (self.store.rules(), self.store.names());
        let before = plan::Before { desired: &self.desired, rules, names };
        let Plan { rules: planned, mut reply } = plan::plan(edit, before, &origin, now.wall)?;
        let stored = match planned {
            Planned::Same => None,
            Planned::Some(change) => {
                let (mut rules, mut names) = (rules.to_vec(), names.to_vec());
                drop(change.carry_out(&mut rules, &mut names));
                Some((rules, names))
            }
            Planned::Whole { rules, names, .. } => Some((rules, names)),
        };
        if let Some((rules, names)) = stored {
            let all_names = || self.desired.names.iter().chain(&names);
            let derived = derive(all_names(), &self.book);
            let beside = Beside { rules: &rules, names: &names, derived: &derived };
            let compiled = self.compile(&self.desired, self.scope, beside)?;
            let is_closed = lets_in_nobody(self.desired.rules.iter().chain(&rules), all_names());
            if is_closed {
                reply.warnings.push(plan::CLOSED.into());
            }
            reply.warnings.extend(self.tell_of_new(&names, self.store.names()));
            let shut_out = shut_out(compiled.image(), &self.desired.ports());
            reply.closes = !shut_out.is_empty() || is_closed && !self.is_closed();
            reply.warnings.extend(shut_out);
        }
        reply.generation = self.generation;
        Ok(reply)
    }

    /// What to say of those whom the policy in force has just shut out.
    #[must_use]
    pub fn shut_out(&self) -> Vec<String> {
        let image = self.compiled.as_ref().map(|compiled| compiled.image());
        image.map(|image| shut_out(image, &self.desired.ports())).unwrap_or_default()
    }
}
