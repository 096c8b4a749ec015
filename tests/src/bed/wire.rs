//! Frames as they are on a wire: sent and captured through packet sockets.

use std::{
    io::IoSliceMut,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom,
            recvmsg, send, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
};

use super::{Namespace, wait::until};

/// `PACKET_OUTGOING` of `linux/if_packet.h`: a frame that this host sends.
const OUTGOING: u8 = 4;
/// The longest merged frame, and more.
const FRAME_BYTES: usize = 80 * 1024;
/// Room for a flood while the reader is not scheduled.
const RECEIVE_BUFFER: usize = 64 << 20;
/// How long a reader sleeps before it looks whether it is to stop.
const READER_PAUSE: TimeVal = TimeVal::new(0, 20_000);
/// How long a capture that is stopped waits for a quiet line, where others go on sending.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long it then reads what is queued, at most.
const BACKLOG: Duration = Duration::from_secs(5);
/// Frames that a capture keeps; further ones are counted only.
const KEPT: usize = 20_000;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Opens a socket on an interface of a namespace.
    ///
    /// # Errors
    ///
    /// If there is no such interface.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace
            .enter(|| -> Result<Self> {
                let socket = socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::EthAll,
                )?;
                // The link-layer address in this list is one that `bind` takes as it is.
                let address: LinkAddr = getifaddrs()?
                    .filter(|entry| entry.interface_name == interface)
                    .find_map(|entry| entry.address?.as_link_addr().copied())
                    .context("no such interface")?;
                bind(socket.as_raw_fd(), &address)?;
                setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
                setsockopt(&socket, sockopt::ReceiveTimeout, &READER_PAUSE)?;
                Ok(Self { socket })
            })?
            .with_context(|| format!("a packet socket on {interface} of {}", namespace.name()))
    }

    /// Sends one frame.
    ///
    /// # Errors
    ///
    /// If the interface does not take it, for example because it is too long.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => thread::yield_now(),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("sending a frame of {} bytes", frame.len()));
                }
            }
        }
    }

    /// The next frame and its direction, if one is there. Does not wait.
    pub fn poll<'b>(&self, buffer: &'b mut [u8]) -> Option<(&'b [u8], Direction)> {
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut parts, None, flags).ok()?;
        let (length, kind) = (message.bytes, message.address?.pkttype());
        let direction = if kind == OUTGOING { Direction::Out } else { Direction::In };
        Some((&buffer[..length], direction))
    }

    /// The next frame and its direction, or nothing after a short while.
    fn receive<'b>(&self, buffer: &'b mut [u8]) -> Option<(&'b [u8], Direction)> {
        let (length, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer).ok()?;
        let direction = if from?.pkttype() == OUTGOING { Direction::Out } else { Direction::In };
        Some((&buffer[..length], direction))
    }
}

/// Which way a frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in, past every XDP program: the kernel shows it to packet sockets after them.
    In,
    /// The host sent it.
    Out,
}

/// How a capture is to end.
#[derive(Debug, Default)]
struct End {
    /// It is to end, with all that has arrived by now.
    wanted: AtomicBool,
    /// Nobody will look at what it hears: it is to end at once.
    in_vain: AtomicBool,
}

/// What a capture has heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// How many frames matched.
    pub count: u64,
    /// The first 20,000 of them. The kernel has taken off the outermost VLAN tag.
    pub frames: Vec<Vec<u8>>,
}

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    heard: Arc<Mutex<Heard>>,
    end: Arc<End>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    /// Keeps the frames that `filter` wants, from now on.
    ///
    /// # Errors
    ///
    /// If there is no such interface.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        filter: impl Fn(&[u8], Direction) -> bool + Send + 'static,
    ) -> Result<Self> {
        let wire = Wire::open(namespace, interface)?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let end = Arc::new(End::default());
        let reader = {
            let (heard, end) = (Arc::clone(&heard), Arc::clone(&end));
            thread::spawn(move || listen(&wire, &heard, &end, filter))
        };
        Ok(Self { heard, end, reader: Some(reader) })
    }

    /// Frames so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// What it has heard so far.
    #[must_use]
    pub fn so_far(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this many frames are heard.
    ///
    /// # Errors
    ///
    /// If they are not within `limit`.
    pub fn wait_for(&self, count: u64, limit: Duration) -> Result<()> {
        until(&format!("{count} captured frames"), limit, || self.count() >= count)
            .with_context(|| format!("{} were captured", self.count()))
    }

    /// Ends the capture. What had arrived by now is in it.
    #[must_use]
    pub fn stop(mut self) -> Heard {
        self.finish();
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn finish(&mut self) {
        self.end.wanted.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // A panic of the filter has been printed.
            let _ = reader.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end.in_vain.store(true, Ordering::Relaxed);
        self.finish();
    }
}

fn listen(wire: &Wire, heard: &Mutex<Heard>, end: &End, filter: impl Fn(&[u8], Direction) -> bool) {
    let keep = |frame: &[u8], direction| {
        if filter(frame, direction) {
            let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.count += 1;
            if heard.frames.len() < KEPT {
                heard.frames.push(frame.to_vec());
            }
        }
    };
    let mut buffer = vec![0; FRAME_BYTES];
    let mut stopped: Option<Instant> = None;
    while stopped.is_none_or(|at| at.elapsed() < LAST_WORDS) {
        if end.in_vain.load(Ordering::Relaxed) {
            return;
        }
        // Asked before the read: what arrived before the stop is read, then the line is quiet.
        if stopped.is_none() && end.wanted.load(Ordering::Relaxed) {
            stopped = Some(Instant::now());
        }
        match wire.receive(&mut buffer) {
            Some((frame, direction)) => keep(frame, direction),
            None if stopped.is_some() => return,
            None => {}
        }
    }
    // Under a flood the line is never quiet: what is queued by now is all that counts.
    let limit = Instant::now() + BACKLOG;
    while Instant::now() < limit {
        let Some((frame, direction)) = wire.poll(&mut buffer) else { return };
        keep(frame, direction);
    }
}
