//! Who is connected to a guarded port and would be shut out: most of all whoever is at work on this host over
//! the very port.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    doors::sockets::connected,
    policy::{MapImage, Port},
};

/// Sources that are named; of more there is the number.
const NAMED: usize = 5;

/// What to say of those who are connected at the moment and whom a policy shuts out.
#[must_use]
pub fn shut_out(image: &MapImage, ports: &BTreeSet<Port>) -> Vec<String> {
    // Without the list nobody is named, which is no reason not to go on.
    let connected = connected(ports).unwrap_or_default();
    told(image, &connected)
}

fn told(image: &MapImage, connected: &BTreeSet<(IpAddr, Port)>) -> Vec<String> {
    let out: Vec<_> =
        connected.iter().filter(|(source, port)| image.shuts_out(*source, *port)).collect();
    let mut told: Vec<String> = out
        .iter()
        .take(NAMED)
        .map(|(source, port)| {
            format!(
                "{source} is connected to {port} at this moment and is not allowed: that connection \
                 ends. If it is yours, allow {source} first, or put the change on trial with --confirm"
            )
        })
        .collect();
    if out.len() > NAMED {
        told.push(format!("so are {} more", out.len() - NAMED));
    }
    told
}
