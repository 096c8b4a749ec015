//! The control socket: HTTP over a Unix socket, for the command line and for `curl --unix-socket`.
//!
//! The room promises: who a client is comes from the kernel, never from the request; who may do
//! what is one pure function ([`access`]); everything a client can hold (connections, bodies,
//! event streams, unread answers) is bounded; and a stuck client delays nobody else.
//!
//! Deliberately not here: what a rule means and where it is kept. Prefixes are text, and every
//! request is handed to a [`Backend`].
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/status` | what the backend knows |
//! | `GET /v1/rules` | [`protocol::RuleList`] |
//! | `POST /v1/rules/add` | [`protocol::AddRequest`] to [`protocol::EditReply`] |
//! | `POST /v1/rules/remove` | [`protocol::RemoveRequest`] to [`protocol::EditReply`] |
//! | `POST /v1/rules/replace` | [`protocol::ReplaceRequest`] to [`protocol::EditReply`] |
//! | `GET /v1/events[?since=WHEN][&until=WHEN][&follow=true]` | [`crate::events::Line`], one JSON object a line |
//! | `POST /v1/learn` | [`learning::LearnRequest`] to [`learning::LearnLine`], one JSON object a line |
//! | `POST /v1/detach` | [`protocol::DetachReply`] |
//!
//! Every error is [`protocol::ErrorReply`] with a status that says what kind it is.

#![forbid(unsafe_code)]

pub mod access;
pub mod backend;
mod body;
pub mod client;
mod connection;
pub mod learning;
pub mod peer;
pub mod protocol;
mod refusal;
mod routes;
pub mod server;
mod shared;
pub mod socket;
mod stall;

pub use access::{AccessRules, Action, Denied};
pub use backend::{Backend, Failure};
pub use client::{Client, ClientError, EventLines};
pub use peer::Peer;
pub use protocol::Effect;
pub use server::{ControlConfig, Limits, serve};
