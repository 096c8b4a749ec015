//! What the policy has to know about this host: its addresses, and the doors that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ollama_guard_common::Scope;

use super::{Guard, GuardError};
use crate::{
    dataplane::{Dataplane, PolicySink},
    policy::{NameRule, Rule},
};

impl<S: PolicySink> Guard<S> {
    /// Takes note of the interfaces that are guarded, for rules that hold at some only. Returns whether
    /// the kernel had to know.
    pub fn know_doors(&mut self, doors: BTreeMap<u32, String>) -> Result<bool, GuardError> {
        if doors == self.doors {
            return Ok(false);
        }
        let before = std::mem::replace(&mut self.doors, doors);
        let is_asked = self.written().chain(self.rules_before()).any(Rule::is_for_some_doors)
            || self.name_rules().chain(self.names_before()).any(NameRule::is_for_some_doors);
        if !is_asked {
            // Nobody asks, and a long list takes its time.
            return Ok(false);
        }
        let compiled = match self.compile(&self.desired, self.scope, self.beside()) {
            Ok(compiled) => compiled,
            Err(error) => {
                self.doors = before;
                return Err(error.into());
            }
        };
        if self.compiled.as_ref().is_some_and(|old| old.layout() == compiled.layout()) {
            // What comes back may tell them apart all the same.
            self.renew_before()?;
            return Ok(false);
        }
        if self.generation > 0 {
            // Should it fail, the next call tries again.
            self.swap(compiled.image()).inspect_err(|_| self.doors = before)?;
        }
        self.compiled = Some(compiled);
        self.renew_before()?;
        Ok(self.generation > 0)
    }
}

impl Guard<Dataplane> {
    /// Takes note of this host's own addresses, if only packets for these are to be decided on.
    /// `own` is `None` if they are not known. While they are not, or are too many, everybody's
    /// packets are decided on; the error says so.
    ///
    /// Before the first policy nothing but the note is taken.
    pub fn know_addresses(&mut self, own: Option<&BTreeSet<IpAddr>>) -> Result<(), GuardError> {
        if self.desired.scope == Scope::All {
            return Ok(());
        }
        let outcome = match own {
            None => Err(GuardError::AddressesUnknown),
            Some(own) => match self.sink.know_addresses(own) {
                Ok(true) => Ok(()),
                Ok(false) => Err(GuardError::TooManyAddresses { count: own.len() }),
                Err(error) => Err(error.into()),
            },
        };
        let scope = if outcome.is_ok() { Scope::Local } else { Scope::All };
        let before = std::mem::replace(&mut self.scope, scope);
        if before != scope && self.generation > 0 {
            // Should it fail, the kernel goes on with what it has, and the next call tries again.
            self.apply().inspect_err(|_| self.scope = before)?;
            self.renew_before()?;
        }
        outcome
    }
}
