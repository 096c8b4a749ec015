//! Who gets which answer, with clients that a test cannot be: the kernel says who a client is, so
//! here its place in the request is filled in.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

use super::*;
use crate::{
    control::{
        access::AccessRules,
        backend::{Backend, Failure, Manner, Working},
        learning::{LearnLine, LearnRequest},
        peer::Peer,
        protocol::{
            DetachReply, Edit, EditReply, InnerReply, ModeRequest, ReloadReply, ReloadRequest,
            RuleList, TrialReply, TrialView,
        },
        server::{ControlConfig, Limits},
        shared::Caller,
        stall::Patience,
    },
    dataplane::TrialEnd,
    events::{Bounds, Journal, Line, Subscription},
};

const GROUP: u32 = 991;

#[derive(Default)]
struct Counting {
    calls: AtomicUsize,
    journal: Journal,
}

impl Counting {
    fn answer<T: Send + 'static>(&self, answer: T) -> BoxFuture<'_, Result<T, Failure>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(answer) })
    }
}

impl Backend for Counting {
    fn status(&self) -> BoxFuture<'_, Result<Value, Failure>> {
        self.answer(json!({}))
    }

    fn rules(&self) -> BoxFuture<'_, Result<RuleList, Failure>> {
        self.answer(RuleList { generation: 1, rules: Vec::new(), names: Vec::new(), terms: None })
    }

    fn edit(&self, _: Edit, _: Manner, _: Peer) -> BoxFuture<'_, Result<EditReply, Failure>> {
        self.answer(EditReply::default())
    }

    fn settle(&self, _: TrialEnd, _: Peer) -> BoxFuture<'_, Result<TrialReply, Failure>> {
        self.answer(TrialReply {
            trial: TrialView {
                what: "a change".into(),
                by: "ada".into(),
                until: Timestamp::UNIX_EPOCH,
            },
            generation: 8,
        })
    }

    fn past(&self, _: Bounds, _: u64) -> mpsc::Receiver<Vec<Line>> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        mpsc::channel(1).1
    }

    fn confirm_inner(&self, _: Peer) -> BoxFuture<'_, Result<InnerReply, Failure>> {
        self.answer(InnerReply::default())
    }

    fn reload(&self, _: ReloadRequest, _: Peer) -> BoxFuture<'_, Result<ReloadReply, Failure>> {
        self.answer(ReloadReply::default())
    }

    fn set_mode(&self, _: ModeRequest, _: Peer) -> BoxFuture<'_, Result<ReloadReply, Failure>> {
        self.answer(ReloadReply::default())
    }

    fn events(&self) -> Subscription {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.journal.subscribe()
    }

    fn learn(
        &self,
        _: LearnRequest,
        _: Peer,
        _: Working,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<LearnLine>, Failure>> {
        // Nobody sends: the stream ends at once.
        self.answer(mpsc::channel(1).1)
    }

    fn detach(&self, _: Peer) -> BoxFuture<'_, Result<DetachReply, Failure>> {
        self.answer(DetachReply::default())
    }
}

const READS: [(&str, &str, &str); 4] = [
    ("GET", "/v1/status", ""),
    ("GET", "/v1/rules", ""),
    ("GET", "/v1/events", ""),
    ("GET", "/v1/events?follow=true", ""),
];
const CHANGES: [(&str, &str, &str); 7] = [
    ("POST", "/v1/rules/add", r#"{"effect":"allow","prefixes":["192.0.2.1"]}"#),
    ("POST", "/v1/rules/remove", r#"{"effect":"deny","prefixes":["192.0.2.1"]}"#),
    ("POST", "/v1/rules/replace", r#"{"effect":"allow","rules":[]}"#),
    ("POST", "/v1/reload", "{}"),
    ("POST", "/v1/mode", r#"{"mode":"enforce"}"#),
    ("POST", "/v1/learn", r#"{"seconds":1}"#),
    ("POST", "/v1/reload", r#"{"dry_run":true}"#),
];
const DETACH: [(&str, &str, &str); 1] = [("POST", "/v1/detach", "{}")];

/// Asks as this user, and returns the status, what was said, and how often the backend was asked.
async fn ask(
    peer: &Peer,
    group_may_edit: bool,
    (method, path, body): (&str, &str, &str),
) -> (u16, String, usize) {
    let backend = Arc::new(Counting::default());
    let access = AccessRules { service_uid: 990, group: Some(GROUP), group_may_edit };
    let access = watch::channel(access).1;
    let config = ControlConfig { access, limits: Limits::default() };
    let (ending, watch) = watch::channel(false);
    let shared = Arc::new(Shared::new(Arc::clone(&backend) as _, config, watch));
    let caller = Caller { peer: Arc::new(peer.clone()), patience: Patience::default() };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .extension(caller)
        .body(Body::from(body.to_owned()))
        .expect("a request");
    let response = router(shared).oneshot(request).await.expect("an answer");
    // Lets an event stream end.
    ending.send_replace(true);
    let status = response.status().as_u16();
    let text = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    let text = String::from_utf8(text.to_vec()).expect("text");
    (status, text, backend.calls.load(Ordering::Relaxed))
}

fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
    Peer { uid, gid, pid: None, user: None, groups: groups.to_vec() }
}

async fn assert_may(peer: &Peer, edit: bool, requests: &[(&str, &str, &str)]) {
    for request in requests {
        assert_eq!(ask(peer, edit, *request).await.0, 200, "{request:?}");
    }
}

async fn assert_may_not(peer: &Peer, edit: bool, requests: &[(&str, &str, &str)]) {
    for request in requests {
        let (status, text, calls) = ask(peer, edit, *request).await;
        assert_eq!((status, calls), (403, 0), "{request:?}");
        let reply: Value = serde_json::from_str(&text).expect("json");
        assert!(reply["error"].as_str().is_some_and(|error| error.contains("sudo")), "{text}");
    }
}

#[tokio::test]
async fn root_and_the_service_may_do_everything() {
    for uid in [0, 990] {
        for requests in [&READS[..], &CHANGES, &DETACH] {
            assert_may(&peer(uid, uid, &[]), false, requests).await;
        }
    }
}

#[tokio::test]
async fn members_of_the_group_read_and_change_only_if_configured() {
    for member in [peer(1000, GROUP, &[]), peer(1000, 1000, &[GROUP])] {
        assert_may(&member, false, &READS).await;
        assert_may_not(&member, false, &CHANGES).await;
        assert_may(&member, true, &CHANGES).await;
        assert_may_not(&member, true, &DETACH).await;
    }
}

#[tokio::test]
async fn strangers_may_nothing_and_learn_nothing() {
    for requests in [&READS[..], &CHANGES, &DETACH] {
        assert_may_not(&peer(1000, 1000, &[27]), true, requests).await;
    }
    // Also not whether a body is right.
    let bad = ("POST", "/v1/rules/add", "nonsense");
    assert_may_not(&peer(1000, 1000, &[27]), true, &[bad]).await;
}

#[tokio::test]
async fn members_who_hold_every_place_do_not_keep_root_out() {
    let access = AccessRules { service_uid: 990, group: Some(GROUP), group_may_edit: true };
    let limits = Limits {
        event_readers: 1,
        listings: 1,
        uploads: 1,
        wait_time: Duration::from_millis(50),
        ..Limits::default()
    };
    let (_ending, watch) = watch::channel(false);
    let backend: Arc<Counting> = Arc::default();
    let access = watch::channel(access).1;
    let shared = Shared::new(backend, ControlConfig { access, limits }, watch);
    let caller = |peer| Caller { peer: Arc::new(peer), patience: Patience::default() };
    let member = caller(peer(1000, GROUP, &[]));
    let held =
        (shared.reader(&member), shared.listing(&member).await, shared.upload(&member).await);
    assert!(held.0.is_ok() && held.1.is_ok() && held.2.is_ok());
    assert!(shared.reader(&member).is_err());
    assert!(shared.listing(&member).await.is_err() && shared.upload(&member).await.is_err());
    for privileged in [0, 990] {
        let root = caller(peer(privileged, privileged, &[]));
        assert!(shared.reader(&root).is_ok());
        assert!(shared.listing(&root).await.is_ok() && shared.upload(&root).await.is_ok());
    }
}
