//! A cluster's CAs, certificates and kubeconfigs, and a small API client.
//!
//! What the node's supervisor, the command line on the host and the tests have
//! in common when they meet a Kubernetes API server.

pub mod api;
pub mod durable;
pub mod kubeconfig;
pub mod node_api;
pub mod pki;
