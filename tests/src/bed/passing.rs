//! Who gets through to a port, by frames on the wire to the server's door.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{Bed, Capture, Direction, SERVER_DOOR, SWITCH_TO_SERVER, Wire, until};
use crate::{
    packet::{ends, ethernet, ipv4, tcp},
    policy::{FRIEND4, GUARDED, SERVER4, STRANGER4},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// Somebody whom one of two configurations lets in.
pub const NEWCOMER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// A port that nobody guards.
const FREE: u16 = 9;

/// Which of the friend, the newcomer and the stranger get through to a port, in this order.
///
/// # Errors
///
/// If no frame arrives at all.
pub fn passing(bed: &Bed, port: u16) -> Result<Vec<Ipv4Addr>> {
    of_these(bed, &[FRIEND4, NEWCOMER4, STRANGER4], port)
}

/// Whether one source gets through to a port.
///
/// # Errors
///
/// If no frame arrives at all.
pub fn passes_to(bed: &Bed, source: Ipv4Addr, port: u16) -> Result<bool> {
    Ok(!of_these(bed, &[source], port)?.is_empty())
}

/// Whether one source gets through to the guarded port.
///
/// # Errors
///
/// If no frame arrives at all.
pub fn passes(bed: &Bed, source: Ipv4Addr) -> Result<bool> {
    passes_to(bed, source, GUARDED)
}

fn of_these(bed: &Bed, sources: &[Ipv4Addr], port: u16) -> Result<Vec<Ipv4Addr>> {
    let heard = Capture::start(&bed.server.namespace, SERVER_DOOR, move |frame, direction| {
        direction == Direction::In
            && ends(frame).is_some_and(|ends| [port, FREE].contains(&ends.destination.port()))
    })?;
    let wire = Wire::open(&bed.switch, SWITCH_TO_SERVER)?;
    let knock = |source, port| {
        let packet = ipv4(source, SERVER4).carries(&tcp(40_000, port));
        wire.send(&ethernet().carries_ip(&packet))
    };
    for source in sources {
        knock(*source, port)?;
    }
    // Behind them on the same wire, and not guarded.
    knock(STRANGER4, FREE)?;
    let at = |frame: &Vec<u8>| ends(frame).map(|ends| ends.destination.port());
    until("the last frame", PATIENCE, || {
        heard.so_far().frames.iter().any(|frame| at(frame) == Some(FREE))
    })?;
    let frames = heard.stop().frames;
    let came = |source: &Ipv4Addr| {
        frames.iter().filter_map(|frame| ends(frame)).any(|ends| {
            ends.destination.port() == port && ends.source.ip() == IpAddr::from(*source)
        })
    };
    Ok(sources.iter().copied().filter(came).collect())
}

/// Waits until exactly these get through.
///
/// # Errors
///
/// If others still do; the message says who.
pub fn until_passing(bed: &Bed, port: u16, expected: &[Ipv4Addr], limit: Duration) -> Result<()> {
    until(&format!("{expected:?} to pass"), limit, || {
        passing(bed, port).is_ok_and(|found| found == expected)
    })
    .with_context(|| format!("these pass: {:?}", passing(bed, port)))
}
