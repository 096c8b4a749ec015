//! The ports: the first four bytes of the transport header, in every protocol that has them.

use super::Located;
use crate::{
    flow::{Flow, Network, Protocol},
    frame::Frame,
    verdict::Reason,
};

/// Bytes of the two ports, all that is needed: a first fragment of eight bytes is delivered, and
/// carries them.
const PORTS: usize = 4;

#[inline(always)]
pub(super) fn locate<F: Frame + ?Sized>(
    frame: &F,
    network: Network,
    protocol: Protocol,
    transport: usize,
    is_first_fragment: bool,
) -> Located {
    match frame.load::<PORTS>(transport) {
        Some([_, _, high, low]) => {
            let port = u16::from_be_bytes([high, low]);
            Located::at(Flow { network, protocol, transport, port })
        }
        None => {
            let reason =
                if is_first_fragment { Reason::FragmentWithoutPorts } else { Reason::PortsCut };
            Located { protocol: Some(protocol), ..Located::undecidable(reason, network) }
        }
    }
}
