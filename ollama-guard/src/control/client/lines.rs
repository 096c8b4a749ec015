//! A stream of JSON, line by line.

use std::path::PathBuf;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::{ClientError, Connection};
use crate::events::Line;

/// Bytes of the longest line that is waited for.
const LINE_BYTES: usize = 64 * 1024;

/// Lines of JSON. Those of the events are each a [`Line`].
#[derive(Debug)]
pub struct EventLines {
    socket: PathBuf,
    body: Incoming,
    /// What was received and not handed out, from `start` on.
    pending: Vec<u8>,
    start: usize,
    _connection: Connection,
}

impl EventLines {
    pub(super) const fn new(socket: PathBuf, body: Incoming, connection: Connection) -> Self {
        Self { socket, body, pending: Vec::new(), start: 0, _connection: connection }
    }

    /// The next line as it was sent, without its end. `None` when the daemon ended the stream. No
    /// line is lost if the future is dropped before it is done.
    ///
    /// # Errors
    ///
    /// If the connection breaks, or what comes is no line.
    pub async fn next_line(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(line) = self.take() {
                return String::from_utf8(line).map(Some).map_err(|error| self.unexpected(&error));
            }
            if self.pending.len() > LINE_BYTES {
                return Err(self.unexpected(&"a line without an end"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.pending.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(ClientError::Broken {
                        socket: self.socket.clone(),
                        reason: error.to_string(),
                    });
                }
                None if self.pending.is_empty() => return Ok(None),
                None => return Err(self.unexpected(&"half a line at the end")),
            }
        }
    }

    /// The next line, decoded. `None` when the daemon ended the stream.
    ///
    /// # Errors
    ///
    /// If the connection breaks, or what comes is not an event.
    pub async fn next(&mut self) -> Result<Option<Line>, ClientError> {
        self.next_of().await
    }

    /// The next line of another stream, decoded. `None` when the daemon ended it.
    ///
    /// # Errors
    ///
    /// If the connection breaks, or what comes is something else.
    pub async fn next_of<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        match self.next_line().await? {
            Some(line) => serde_json::from_str(&line).map(Some).map_err(|e| self.unexpected(&e)),
            None => Ok(None),
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let rest = &self.pending[self.start..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            self.pending.drain(..self.start);
            self.start = 0;
            return None;
        };
        let line = rest[..end].to_vec();
        self.start += end + 1;
        Some(line)
    }

    fn unexpected(&self, reason: &dyn ToString) -> ClientError {
        ClientError::Unexpected { socket: self.socket.clone(), reason: reason.to_string() }
    }
}
