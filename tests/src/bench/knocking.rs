//! When a door opens or closes, seen from the other end of the cable: by trying, again and again.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::bed::Namespace;

/// How long one try waits. On a cable within one machine an answer takes a fraction of this.
const TRY: Duration = Duration::from_millis(4);
const LIMIT: Duration = Duration::from_secs(60);

/// Tries until one gets no answer. Returns when that one began.
///
/// # Errors
///
/// If all are answered for a minute.
pub fn until_silence(from: &Namespace, address: SocketAddr) -> Result<Instant> {
    knock(from, address, |start, answered| (!answered).then_some(start))
}

/// Tries until one is answered. Returns when that was.
///
/// # Errors
///
/// If none is answered for a minute.
pub fn until_answer(from: &Namespace, address: SocketAddr) -> Result<Instant> {
    knock(from, address, |_, answered| answered.then(Instant::now))
}

fn knock(
    from: &Namespace,
    address: SocketAddr,
    mut is_it: impl FnMut(Instant, bool) -> Option<Instant> + Send,
) -> Result<Instant> {
    from.enter(|| {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            let start = Instant::now();
            let answer = TcpStream::connect_timeout(&address, TRY);
            // A refusal is an answer, too.
            let answered = answer.is_ok()
                || answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
            if let Some(found) = is_it(start, answered) {
                return Ok(found);
            }
            // A stack that answers at once is not to be kept from anything else.
            std::thread::sleep(Duration::from_micros(500));
        }
        bail!("{address} did not change for {} s", LIMIT.as_secs())
    })?
}
