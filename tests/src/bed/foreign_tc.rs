//! A program of somebody else at TC ingress, in the TCX chain or as a clsact filter.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions},
    },
};

use super::{
    Namespace,
    foreign::{NAME, object_of},
};

/// Accepts every packet, and ends the chain.
pub const TC_ACT_OK: u8 = 0;

/// Where in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before every other.
    First,
    /// Behind every other.
    Last,
    /// Not in the chain: a filter of this priority, in a queueing discipline that is there.
    Clsact(u16),
}

/// An attached foreign program. Dropping it detaches it.
#[derive(Debug)]
pub struct ForeignTc {
    object: Ebpf,
    _link: SchedClassifierLinkId,
}

impl ForeignTc {
    /// Loads a program that does this with every packet, and attaches it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn attach(
        namespace: &Namespace,
        interface: &str,
        action: u8,
        place: Place,
    ) -> Result<Self> {
        let mut object = Ebpf::load(&object_of("classifier", action))?;
        let program: &mut SchedClassifier =
            object.program_mut(NAME).context("the program is not in the object")?.try_into()?;
        program.load()?;
        let options = match place {
            Place::First => TcAttachOptions::TcxOrder(LinkOrder::first()),
            Place::Last => TcAttachOptions::TcxOrder(LinkOrder::last()),
            Place::Clsact(priority) => {
                TcAttachOptions::Netlink(NlOptions { priority, ..NlOptions::default() })
            }
        };
        let link = namespace
            .enter(|| program.attach_with_options(interface, TcAttachType::Ingress, options))?
            .with_context(|| format!("attaching a foreign program to {interface}"))?;
        Ok(Self { object, _link: link })
    }

    /// The program's id.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn program_id(&self) -> Result<u64> {
        let program: &SchedClassifier =
            self.object.program(NAME).context("the program is not in the object")?.try_into()?;
        Ok(u64::from(program.info()?.id()))
    }
}
