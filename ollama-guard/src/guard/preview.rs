//! What a change would come to, and whom it would shut out, before it is made.

use std::sync::Arc;

use super::{
    Guard, GuardError, Moment,
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
        let Plan { rules, mut reply } =
            plan::plan(edit, &self.desired, self.store.rules(), &origin, now.wall)?;
        let stored = match rules {
            Planned::Same => None,
            Planned::Some(change) => {
                let mut stored = self.store.rules().to_vec();
                drop(change.carry_out(&mut stored));
                Some(stored)
            }
            Planned::Whole { rules, .. } => Some(rules),
        };
        if let Some(stored) = stored {
            let compiled = self.compile(&self.desired, self.scope, &stored)?;
            plan::warn_if_closed(self.desired.rules.iter().chain(&stored), &mut reply);
            let shut_out = shut_out(compiled.image(), &self.desired.ports());
            let is_closed = plan::lets_nobody_in(self.desired.rules.iter().chain(&stored));
            reply.closes = !shut_out.is_empty() || is_closed && !plan::lets_nobody_in(self.all());
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
