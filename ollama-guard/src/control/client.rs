//! The other end of the socket, for the command line.
//!
//! Long because it is a list of all that can be asked, a method each.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;
use tokio::{net::UnixStream, task::JoinHandle, time::timeout};

use super::{
    access::GROUP,
    backend::Manner,
    learning::LearnRequest,
    protocol::{
        AddRequest, DetachReply, Edit, EditReply, ErrorReply, InnerReply, ModeRequest, ReloadReply,
        ReloadRequest, RemoveRequest, ReplaceRequest, RuleList, TrialReply,
    },
    socket::MAX_PATH_BYTES,
};
use crate::events::Window;

mod lines;

pub use lines::EventLines;

/// How long the daemon may take for an answer. The largest change takes about a second.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// Bytes of an answer: several million rules.
const ANSWER_BYTES: usize = 1 << 30;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error(
        "no daemon answers on {}: start it with `ollama-guard run`, or name the socket of the \
         running one with `--socket PATH`", socket.display()
    )]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// The file system does not let us open the socket.
    #[error(
        "this user may not open {}: use sudo, or have the user added to the group `{GROUP}`, whose \
         members may read (and change rules if the configuration says `group_may_edit = true`)",
        socket.display()
    )]
    PermissionDenied {
        /// The socket.
        socket: PathBuf,
    },
    /// The kernel's limit.
    #[error(
        "the socket path {} has {} bytes, and at most {MAX_PATH_BYTES} fit: it cannot be a \
         socket's", socket.display(), socket.as_os_str().len()
    )]
    TooLong {
        /// The path.
        socket: PathBuf,
    },
    /// It could not be connected to for another reason.
    #[error("cannot connect to {}: {source}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon says no, and why.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the daemon says.
        message: String,
    },
    /// The connection ended too early.
    #[error(
        "the daemon at {} ended the connection ({reason}): see its log, and `ollama-guard status`",
        socket.display()
    )]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// It takes too long.
    #[error(
        "the daemon at {} has not answered within {} s: see its log; whether a change was made is \
         shown by `ollama-guard status`", socket.display(), ANSWER_TIME.as_secs()
    )]
    NoAnswer {
        /// The socket.
        socket: PathBuf,
    },
    /// The answer is not what this version expects.
    #[error(
        "what answers on {} is not understood ({reason}): are the daemon and this command of the \
         same version?", socket.display()
    )]
    Unexpected {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A client of the daemon at one socket. Each request has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// How changes of the rules are made.
    manner: Manner,
}

impl Client {
    /// A client of the daemon at this socket. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), manner: Manner::ForGood }
    }

    /// The same, whose changes of the rules are made in this manner.
    #[must_use]
    pub fn changing(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }

    /// What `status` shows.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; the same for all requests.
    pub async fn status(&self) -> Result<Value, ClientError> {
        self.get("/v1/status").await
    }

    /// All rules.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn rules(&self) -> Result<RuleList, ClientError> {
        self.get("/v1/rules").await
    }

    /// Adds rules.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn add(&self, request: &AddRequest) -> Result<EditReply, ClientError> {
        self.post(&self.path("/v1/rules/add"), request).await
    }

    /// Removes rules.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn remove(&self, request: &RemoveRequest) -> Result<EditReply, ClientError> {
        self.post(&self.path("/v1/rules/remove"), request).await
    }

    /// Replaces the rules of one effect.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn replace(&self, request: &ReplaceRequest) -> Result<EditReply, ClientError> {
        self.post(&self.path("/v1/rules/replace"), request).await
    }

    /// Changes rules.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn edit(&self, edit: &Edit) -> Result<EditReply, ClientError> {
        match edit {
            Edit::Add(request) => self.add(request).await,
            Edit::Remove(request) => self.remove(request).await,
            Edit::Replace(request) => self.replace(request).await,
        }
    }

    /// Makes what is on trial stay.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn confirm(&self) -> Result<TrialReply, ClientError> {
        self.post("/v1/confirm", &Value::Object(serde_json::Map::new())).await
    }

    /// Has the inner door drop that has only observed since an upgrade.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn confirm_inner(&self) -> Result<InnerReply, ClientError> {
        self.post("/v1/inner/confirm", &Value::Object(serde_json::Map::new())).await
    }

    /// Takes back what is on trial.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn revert(&self) -> Result<TrialReply, ClientError> {
        self.post("/v1/revert", &Value::Object(serde_json::Map::new())).await
    }

    /// The path of a change.
    fn path(&self, path: &str) -> String {
        match self.manner {
            Manner::ForGood => path.to_owned(),
            Manner::OnTrial(time) => format!("{path}?confirm={}", time.as_secs()),
            Manner::DryRun => format!("{path}?dry_run=true"),
        }
    }

    /// Has the daemon read its configuration again.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn reload(&self, request: &ReloadRequest) -> Result<ReloadReply, ClientError> {
        self.post("/v1/reload", request).await
    }

    /// Has services enforced or observed.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn set_mode(&self, request: &ModeRequest) -> Result<ReloadReply, ClientError> {
        self.post("/v1/mode", request).await
    }

    /// Takes the guard out of the kernel.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn detach(&self) -> Result<DetachReply, ClientError> {
        self.post("/v1/detach", &Value::Object(serde_json::Map::new())).await
    }

    /// The recent events; with `follow` also every new one, without an end of its own.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn events(&self, follow: bool) -> Result<EventLines, ClientError> {
        self.events_within(&Window::default(), follow).await
    }

    /// The events within a window, also those of the past; with `follow` also every new one.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn events_within(
        &self,
        window: &Window,
        follow: bool,
    ) -> Result<EventLines, ClientError> {
        let mut path = format!("/v1/events?follow={follow}");
        for (name, moment) in [("since", window.since), ("until", window.until)] {
            if let Some(moment) = moment {
                path.push_str(&format!("&{name}={moment}"));
            }
        }
        self.stream(Method::GET, &path, Bytes::new()).await
    }

    async fn stream(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<EventLines, ClientError> {
        let (response, connection) = self.begin(method, path, body).await?;
        if response.status().is_success() {
            return Ok(EventLines::new(self.socket.clone(), response.into_body(), connection));
        }
        Err(self.refused(response).await)
    }

    /// Has the daemon count who is at the guarded ports. The answer is of
    /// [`LearnLine`](super::learning::LearnLine)s; who drops it breaks off.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn learn(&self, request: &LearnRequest) -> Result<EventLines, ClientError> {
        let json = serde_json::to_vec(request).map_err(|error| self.unexpected(&error))?;
        self.stream(Method::POST, "/v1/learn", json.into()).await
    }

    /// Asks for any path.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    /// Posts to any path.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn post<B, T>(&self, path: &str, body: &B) -> Result<T, ClientError>
    where
        B: Serialize + ?Sized,
        T: DeserializeOwned,
    {
        let json = serde_json::to_vec(body).map_err(|error| self.unexpected(&error))?;
        self.request(Method::POST, path, json.into()).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let answer = async {
            let (response, _connection) = self.begin(method, path, body).await?;
            if !response.status().is_success() {
                return Err(self.refused(response).await);
            }
            let bytes = self.collect(response).await?;
            serde_json::from_slice(&bytes).map_err(|error| self.unexpected(&error))
        };
        timeout(ANSWER_TIME, answer)
            .await
            .unwrap_or_else(|_| Err(ClientError::NoAnswer { socket: self.socket.clone() }))
    }

    /// Sends a request and waits for the head of the answer.
    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection), ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let connection = Connection(tokio::spawn(async move {
            // Its error is also the request's.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.unexpected(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        Ok((response, connection))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let socket = self.socket.clone();
        if socket.as_os_str().len() > MAX_PATH_BYTES {
            return Err(ClientError::TooLong { socket });
        }
        UnixStream::connect(&self.socket).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { socket }
            }
            io::ErrorKind::PermissionDenied => ClientError::PermissionDenied { socket },
            _ => ClientError::Connect { socket, source },
        })
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES);
        match body.collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) => Err(self.broken(error.as_ref())),
        }
    }

    async fn refused(&self, response: Response<Incoming>) -> ClientError {
        let status: StatusCode = response.status();
        match self.collect(response).await {
            Ok(bytes) => match serde_json::from_slice::<ErrorReply>(&bytes) {
                Ok(reply) => ClientError::Refused { status: status.as_u16(), message: reply.error },
                Err(_) => self.unexpected(&format!("it answers \"{status}\" and nothing else")),
            },
            Err(error) => error,
        }
    }

    fn broken(&self, reason: &(impl ToString + ?Sized)) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }

    fn unexpected(&self, reason: &(impl ToString + ?Sized)) -> ClientError {
        ClientError::Unexpected { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

/// The task that drives a connection; it ends with whoever waits for its answer.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}
