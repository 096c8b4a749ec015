//! A real server on a real socket, in front of a backend that remembers what it was asked.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use ollama_guard::{
    control::{
        AccessRules, Backend, Client, ControlConfig, Effect, Failure, Limits, Peer,
        backend::{Manner, Working},
        learning::{LearnLine, LearnRequest},
        protocol::{
            DetachReply, Edit, EditReply, InnerReply, ModeRequest, ReloadReply, ReloadRequest,
            RuleList, RuleView, TrialReply, TrialView,
        },
        serve, socket,
    },
    dataplane::TrialEnd,
    events::{Bounds, Event, Journal, Line, Subscription, event::Outcome},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

/// Longer than anything here takes.
pub const LONG: Duration = Duration::from_secs(20);

/// A prefix that the backend takes its time for.
pub const SLOW: &str = "192.0.2.99";

#[derive(Default)]
pub struct Fake {
    pub journal: Journal,
    pub past: Mutex<Vec<Event>>,
    pub before: Mutex<Option<u64>>,
    pub asked: Mutex<Vec<(Edit, Peer)>>,
    pub finished: Mutex<Vec<Edit>>,
    pub detached: Mutex<Option<Peer>>,
    pub slow_may_end: Notify,
    pub rules: Mutex<Vec<RuleView>>,
    /// The other end of what a client learns.
    pub learning: Mutex<Option<(mpsc::Sender<LearnLine>, Working)>>,
}

impl Backend for Fake {
    fn status(&self) -> BoxFuture<'_, Result<Value, Failure>> {
        Box::pin(async { Ok(json!({ "mode": "enforce" })) })
    }

    fn rules(&self) -> BoxFuture<'_, Result<RuleList, Failure>> {
        let rules = self.rules.lock().expect("the rules").clone();
        Box::pin(async { Ok(RuleList { generation: 5, rules, names: Vec::new(), terms: None }) })
    }

    fn edit(&self, edit: Edit, _: Manner, peer: Peer) -> BoxFuture<'_, Result<EditReply, Failure>> {
        self.asked.lock().expect("the list").push((edit.clone(), peer));
        Box::pin(async move {
            let prefixes = match &edit {
                Edit::Add(request) => request.prefixes.clone(),
                Edit::Remove(request) => request.prefixes.clone(),
                Edit::Replace(request) => request.rules.iter().map(|r| r.prefix.clone()).collect(),
            };
            match prefixes.first().map(String::as_str) {
                Some("bad") => return Err(Failure::BadInput("`bad` is no prefix".to_owned())),
                Some("file") => return Err(Failure::Conflict("it stands on line 12".to_owned())),
                Some("busy") => return Err(Failure::Unavailable("stopping".to_owned())),
                Some("broken") => return Err(Failure::Internal("no".to_owned())),
                Some("panic") => panic!("a bug in the backend"),
                Some(SLOW) => self.slow_may_end.notified().await,
                _ => {}
            }
            self.finished.lock().expect("the list").push(edit);
            Ok(EditReply { generation: 6, added: prefixes, ..EditReply::default() })
        })
    }

    fn confirm_inner(&self, _: Peer) -> BoxFuture<'_, Result<InnerReply, Failure>> {
        Box::pin(async { Ok(InnerReply { observed: true }) })
    }

    fn reload(&self, _: ReloadRequest, _: Peer) -> BoxFuture<'_, Result<ReloadReply, Failure>> {
        Box::pin(async { Ok(ReloadReply { generation: 7, ..ReloadReply::default() }) })
    }

    fn set_mode(&self, _: ModeRequest, _: Peer) -> BoxFuture<'_, Result<ReloadReply, Failure>> {
        Box::pin(async { Ok(ReloadReply { generation: 7, ..ReloadReply::default() }) })
    }

    fn events(&self) -> Subscription {
        self.journal.subscribe()
    }

    fn settle(&self, _: TrialEnd, _: Peer) -> BoxFuture<'_, Result<TrialReply, Failure>> {
        Box::pin(async {
            Ok(TrialReply {
                trial: TrialView {
                    what: "a change".into(),
                    by: "ada".into(),
                    until: Timestamp::UNIX_EPOCH,
                },
                generation: 8,
            })
        })
    }

    fn past(&self, bounds: Bounds, before: u64) -> mpsc::Receiver<Vec<Line>> {
        let (sender, receiver) = mpsc::channel(1);
        let past = self.past.lock().expect("the list").clone();
        let past = past.into_iter().filter(|event| bounds.cover(event, true));
        let lines = past.map(|event| Line::Event(event.into())).collect();
        *self.before.lock().expect("the number") = Some(before);
        sender.try_send(lines).expect("room for one");
        receiver
    }

    fn learn(
        &self,
        _: LearnRequest,
        _: Peer,
        working: Working,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LearnLine>, Failure>> {
        let (sender, lines) = mpsc::channel(4);
        *self.learning.lock().expect("the lines") = Some((sender, working));
        Box::pin(async { Ok(lines) })
    }

    fn detach(&self, peer: Peer) -> BoxFuture<'_, Result<DetachReply, Failure>> {
        *self.detached.lock().expect("the peer") = Some(peer);
        Box::pin(async { Ok(DetachReply { removed: vec!["all".to_owned()], warnings: vec![] }) })
    }
}

pub struct Bed {
    pub backend: Arc<Fake>,
    pub client: Client,
    pub path: PathBuf,
    shutdown: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    _directory: TempDir,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    pub fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("guard/control.sock");
        let (listener, file) = socket::bind(&path, None).expect("a socket");
        let mut limits = Limits { grace_time: Duration::from_secs(1), ..Limits::default() };
        change(&mut limits);
        let service_uid = nix::unistd::geteuid().as_raw();
        let access = AccessRules { service_uid, group: None, group_may_edit: false };
        let backend = Arc::new(Fake::default());
        let (shutdown, ended) = oneshot::channel();
        let behind: Arc<dyn Backend> = Arc::<Fake>::clone(&backend);
        let server = tokio::spawn(async move {
            let ended = async {
                let _ = ended.await;
            };
            let access = watch::channel(access).1;
            serve(listener, behind, ControlConfig { access, limits }, ended).await;
            drop(file);
        });
        let client = Client::new(&path);
        Self { backend, client, path, shutdown: Some(shutdown), server, _directory: directory }
    }

    /// Asks the server to end, without waiting for it.
    pub fn begin_shutdown(&mut self) {
        self.shutdown.take().map(|shutdown| shutdown.send(()));
    }

    pub fn is_running(&self) -> bool {
        !self.server.is_finished()
    }

    pub async fn ended(&mut self) {
        timeout(LONG, &mut self.server).await.expect("in time").expect("no panic");
    }

    /// A connection that sends these bytes.
    pub async fn raw(&self, bytes: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.path).await.expect("connected");
        stream.write_all(bytes.as_bytes()).await.expect("sent");
        stream
    }

    /// Sends a request as bytes, and returns the status and the JSON of the answer.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        answer(self.raw(&(head + body)).await).await
    }
}

/// Reads an answer to the end of the connection.
pub async fn answer(mut stream: UnixStream) -> (u16, Value) {
    let mut text = String::new();
    timeout(LONG, stream.read_to_string(&mut text)).await.expect("in time").expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, serde_json::from_str(body).expect("json"))
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

pub fn event(number: u32) -> Event {
    Event {
        time: Timestamp::UNIX_EPOCH,
        verdict: Outcome::Drop,
        reason: "not-listed".to_owned(),
        source: Some([203, 0, 113, 66].into()),
        source_port: Some(40_000),
        destination: Some([192, 0, 2, 1].into()),
        destination_port: Some(11_434),
        protocol: Some("tcp".to_owned()),
        hook: None,
        door: Some("eth0".to_owned()),
        ifindex: number,
        length: 74,
        count: 1,
        boot_ms: 0,
        marks: Vec::new(),
    }
}

pub fn rule(prefix: &str) -> RuleView {
    RuleView {
        prefix: prefix.to_owned(),
        effect: Effect::Allow,
        limits: None,
        comment: None,
        origin: "added by root".to_owned(),
        removable: true,
        expires: None,
    }
}
