//! Asking a server, as a client sees it.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::Namespace;

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
pub fn get(from: &Namespace, server: SocketAddr, path: &str, patience: Duration) -> Result<Answer> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    ask(from, server, &request, patience)
}

/// Sends a body by POST.
///
/// # Errors
///
/// As [`get`].
pub fn post(
    from: &Namespace,
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
    ask(from, server, &request, patience)
}

fn ask(from: &Namespace, server: SocketAddr, request: &str, patience: Duration) -> Result<Answer> {
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
    from: &Namespace,
    server: SocketAddr,
    patience: Duration,
) -> Result<std::result::Result<TcpStream, Answer>> {
    match from.enter(|| TcpStream::connect_timeout(&server, patience))? {
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
pub fn download(
    from: &Namespace,
    server: SocketAddr,
    bytes: u64,
    patience: Duration,
) -> Result<Duration> {
    let begin = Instant::now();
    let mut stream = match connect(from, server, patience)? {
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
