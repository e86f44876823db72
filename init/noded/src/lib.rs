//! `noded`: the node's own API, over HTTPS with mutual TLS.
//!
//! It works when Kubernetes doesn't and when no good seed was found: it depends on PID 1 and
//! on nothing else. [`server`] takes connections and keeps them bounded, [`tls`] says who is
//! calling, [`routes`] is the table of what can be asked, and each of the other modules
//! answers a few of its lines. [`fetch`] is apart: it gets a seed from a URL for PID 1.

pub mod answer;
pub mod audit;
pub mod cluster;
pub mod error;
pub mod events;
pub mod fetch;
pub mod firmware;
pub mod identity;
pub mod local_time;
pub mod logs;
pub mod mdns;
pub mod notice;
pub mod options;
pub mod paths;
pub mod power;
pub mod pty;
pub mod redact;
pub mod routes;
pub mod seed;
pub mod server;
pub mod shell;
pub mod status;
pub mod support;
pub mod system;
pub mod tail;
pub mod tls;
pub mod update;
pub mod web;
