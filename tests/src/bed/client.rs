//! Asking a server, as a client sees it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_socket,
            setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use super::Namespace;

/// Who asks: somebody in a namespace, from the address that the routes choose or from one that it
/// chooses itself.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'bed> {
    namespace: &'bed Namespace,
    source: Option<IpAddr>,
}

impl<'bed> Asker<'bed> {
    /// Somebody who speaks from this address, which is one of the namespace.
    #[must_use]
    pub fn with_address(namespace: &'bed Namespace, source: impl Into<IpAddr>) -> Self {
        Self { namespace, source: Some(source.into()) }
    }
}

impl<'bed> From<&'bed Namespace> for Asker<'bed> {
    fn from(namespace: &'bed Namespace) -> Self {
        Self { namespace, source: None }
    }
}

/// What a client got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The body of a response with status 200.
    Served(Vec<u8>),
    /// A response with another status.
    Status(u16),
    /// The connection was refused: a packet came back that said so.
    Refused,
    /// Nothing came back in time.
    NoAnswer,
    /// The connection came about and then broke or fell silent.
    Broken(String),
}

impl Answer {
    /// Whether a response with status 200 came.
    #[must_use]
    pub const fn is_served(&self) -> bool {
        matches!(self, Self::Served(_))
    }
}

/// Asks for a path by GET.
///
/// # Errors
///
/// If the client's own side fails; all that the server may do is an [`Answer`].
pub fn get<'bed>(
    from: impl Into<Asker<'bed>>,
    server: SocketAddr,
    path: &str,
    patience: Duration,
) -> Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    ask(from.into(), server, &request, patience)
}

/// Sends a body by POST.
///
/// # Errors
///
/// As [`get`].
pub fn post<'bed>(
    from: impl Into<Asker<'bed>>,
    server: SocketAddr,
    path: &str,
    body: &str,
    patience: Duration,
) -> Result<Answer> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(from.into(), server, &request, patience)
}

fn ask(from: Asker<'_>, server: SocketAddr, request: &str, patience: Duration) -> Result<Answer> {
    let deadline = Instant::now() + patience;
    let mut stream = match connect(from, server, patience)? {
        Ok(stream) => stream,
        Err(answer) => return Ok(answer),
    };
    let mut exchange = || -> io::Result<Vec<u8>> {
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        stream.write_all(request.as_bytes())?;
        let mut response = Vec::new();
        stream.read_to_end(&mut response)?;
        Ok(response)
    };
    Ok(match exchange() {
        Ok(response) => understood(&response),
        Err(error) => Answer::Broken(error.to_string()),
    })
}

/// A connection, or the answer instead of one.
fn connect(
    from: Asker<'_>,
    server: SocketAddr,
    patience: Duration,
) -> Result<std::result::Result<TcpStream, Answer>> {
    let connected = from.namespace.enter(|| match from.source {
        None => TcpStream::connect_timeout(&server, patience),
        Some(source) => connect_from(source, server, patience),
    })?;
    match connected {
        Ok(stream) => Ok(Ok(stream)),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ok(Err(Answer::Refused)),
            // EHOSTUNREACH: the neighbour did not answer, so neither did the server.
            ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::HostUnreachable => {
                Ok(Err(Answer::NoAnswer))
            }
            ErrorKind::ConnectionReset => Ok(Err(Answer::Broken(error.to_string()))),
            _ => Err(error).with_context(|| format!("connecting to {server}")),
        },
    }
}

/// A connection from a chosen address, which the standard library does not offer.
fn connect_from(source: IpAddr, server: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    // It bounds `connect` as well, which then says EINPROGRESS: see socket(7).
    let patience = i64::try_from(patience.as_millis()).map_err(io::Error::other)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(patience))?;
    match connect_socket(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
        Err(Errno::EINPROGRESS) => Err(ErrorKind::TimedOut.into()),
        outcome => Ok(outcome.map(|()| TcpStream::from(socket))?),
    }
}

/// Head and body of a whole response. Chunks are left as they are: nobody here needs them apart.
fn understood(response: &[u8]) -> Answer {
    let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Answer::Broken(format!("a response of {} bytes without a head", response.len()));
    };
    let head = String::from_utf8_lossy(&response[..end]);
    match head.split(' ').nth(1).and_then(|status| status.parse().ok()) {
        Some(200) => Answer::Served(response[end + 4..].to_vec()),
        Some(status) => Answer::Status(status),
        None => Answer::Broken(format!("no status in {head:?}")),
    }
}

/// Downloads `bytes` bytes from the stand-in, and says how long it took.
///
/// # Errors
///
/// If not every byte arrives within `patience`.
pub fn download<'bed>(
    from: impl Into<Asker<'bed>>,
    server: SocketAddr,
    bytes: u64,
    patience: Duration,
) -> Result<Duration> {
    let begin = Instant::now();
    let mut stream = match connect(from.into(), server, patience)? {
        Ok(stream) => stream,
        Err(answer) => anyhow::bail!("no download from {server}: {answer:?}"),
    };
    stream.set_read_timeout(Some(patience))?;
    write!(
        stream,
        "GET /blob?bytes={bytes} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
    )?;
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0_u64;
    loop {
        let count = stream.read(&mut buffer).with_context(|| format!("after {total} bytes"))?;
        if count == 0 {
            break;
        }
        total += count as u64;
        ensure!(begin.elapsed() < patience, "only {total} bytes within {patience:?}");
    }
    // The head comes on top.
    ensure!((bytes..bytes + 1024).contains(&total), "{total} bytes came instead of {bytes}");
    Ok(begin.elapsed())
}
