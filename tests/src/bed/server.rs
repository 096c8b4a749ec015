//! A stand-in for Ollama's HTTP API: the same paths and shapes, no model behind them.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket;

use super::Namespace;

/// What `GET /` answers, as Ollama does.
pub const GREETING: &str = "Ollama is running";

/// Clients at the same time; more are turned away.
const CLIENTS: usize = 64;
/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request's head or body.
const REQUEST_BYTES: u64 = 64 * 1024;
/// The largest blob: as much as fits the longest test.
const BLOB_BYTES: u64 = 4 << 30;
/// The answer to `POST /api/generate`, token by token.
const TOKENS: [&str; 6] = ["The", " door", " is", " locked", " for", " strangers."];
const TOKEN_PAUSE: Duration = Duration::from_millis(10);

/// A running stand-in. Dropping it stops it.
#[derive(Debug)]
pub struct Standin {
    listener: TcpListener,
    acceptor: Option<JoinHandle<()>>,
}

impl Standin {
    /// Listens on this port of every address of a namespace, IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// If the port is taken.
    pub fn start_in(namespace: &Namespace, port: u16) -> Result<Self> {
        namespace.enter(|| Self::start(SocketAddr::from(([0_u16; 8], port))))?
    }

    /// Listens on an address of the caller's namespace.
    ///
    /// # Errors
    ///
    /// If the address is taken.
    pub fn start(address: SocketAddr) -> Result<Self> {
        let listener =
            TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
        let accepting = listener.try_clone()?;
        let acceptor = thread::Builder::new()
            .name("standin".to_owned())
            .spawn(move || accept(&accepting))
            .context("starting a thread")?;
        Ok(Self { listener, acceptor: Some(acceptor) })
    }

    /// Serves for ever.
    pub fn serve(mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            // A panic in there has said what it had to say.
            let _ = acceptor.join();
        }
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        // On Linux this wakes a blocked accept with EINVAL.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener) {
    let clients = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // ECONNABORTED and the like concern one client.
            Err(_) => continue,
        };
        if clients.load(Ordering::Relaxed) >= CLIENTS {
            let _ = stream.shutdown(Shutdown::Both);
            continue;
        }
        clients.fetch_add(1, Ordering::Relaxed);
        let clients = Arc::clone(&clients);
        thread::spawn(move || {
            // A client that goes away early is its own business.
            let _ = answer(&stream);
            let _ = stream.shutdown(Shutdown::Both);
            clients.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn answer(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let Some((method, path)) = request(stream)? else {
        return Ok(());
    };
    let (path, query) = path.split_once('?').unwrap_or((&path, ""));
    match (method.as_str(), path) {
        ("GET" | "HEAD", "/") => text(stream, "200 OK", "text/plain", GREETING),
        ("GET", "/api/version") => json(stream, r#"{"version":"0.0.0-standin"}"#),
        ("GET", "/api/tags") => json(
            stream,
            r#"{"models":[{"name":"standin:latest","model":"standin:latest","size":0}]}"#,
        ),
        ("POST", "/api/generate") => generate(stream),
        ("GET", "/blob") => blob(stream, query),
        _ => text(stream, "404 Not Found", "text/plain", "404 page not found"),
    }
}

/// Method and path; the body is read and forgotten.
fn request(stream: &TcpStream) -> io::Result<Option<(String, String)>> {
    let mut reader = BufReader::new(stream.take(REQUEST_BYTES));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    io::copy(&mut reader.take(length), &mut io::sink())?;
    Ok(Some((method, path)))
}

fn json(stream: &TcpStream, body: &str) -> io::Result<()> {
    text(stream, "200 OK", "application/json; charset=utf-8", body)
}

fn text(mut stream: &TcpStream, status: &str, kind: &str, body: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: \
         close\r\n\r\n{body}",
        body.len()
    )
}

/// One JSON object for each token, as they come.
fn generate(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: \
          chunked\r\nConnection: close\r\n\r\n",
    )?;
    for (position, token) in TOKENS.iter().enumerate() {
        let done = position + 1 == TOKENS.len();
        let line = format!("{{\"model\":\"standin\",\"response\":\"{token}\",\"done\":{done}}}\n");
        write!(stream, "{:x}\r\n{line}\r\n", line.len())?;
        thread::sleep(TOKEN_PAUSE);
    }
    stream.write_all(b"0\r\n\r\n")
}

/// As many bytes as asked for.
fn blob(mut stream: &TcpStream, query: &str) -> io::Result<()> {
    let bytes = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("bytes="))
        .and_then(|number| number.parse::<u64>().ok())
        .filter(|bytes| *bytes <= BLOB_BYTES);
    let Some(bytes) = bytes else {
        return text(stream, "400 Bad Request", "text/plain", "GET /blob?bytes=NUMBER");
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: \
         {bytes}\r\nConnection: close\r\n\r\n"
    )?;
    let chunk = vec![0x6f; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(chunk.len() as u64) as usize;
        stream.write_all(&chunk[..count])?;
        left -= count as u64;
    }
    Ok(())
}
