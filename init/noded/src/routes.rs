//! The table of routes: what can be asked, by whom, and what comes back. Requests are led by
//! it, and `docs/node-api.json` and `.md` are made from it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use slipway_access::node_api::Role;

use crate::answer::{Answer, Outcome, Refusal, whole};
use crate::server::App;
use crate::tls::Caller;
use crate::{cluster, events, firmware, logs, power, seed, shell, status, support, update};

/// Largest body of a request, in bytes: a seed's files are at most 1 MiB each.
pub const BODY_LIMIT: usize = 4 << 20;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a certificate too.
    Anyone,
    /// Who has this role or a greater one.
    Role(Role),
}

/// A parameter in a route's path or query.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub kind: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// What a route answers with when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// JSON of this type of [`slipway_images::node`].
    Json(&'static str),
    /// JSON lines of this type.
    Lines(&'static str),
    /// Bytes of this media type.
    Bytes(&'static str),
    /// Nothing but that it is on its way.
    Nothing,
    /// 101, and another protocol.
    Upgrade(&'static str),
}

type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// One line of the table.
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path; `{name}` stands for one segment.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// Parameters in its path and query.
    pub parameters: &'static [Parameter],
    /// The type of its body, if it takes one.
    pub takes: Option<&'static str>,
    /// What it answers with.
    pub gives: Gives,
    /// Who answers.
    handler: Handler,
}

macro_rules! handler {
    ($function:path) => {
        |call| Box::pin($function(call))
    };
}

const READER: Access = Access::Role(Role::Reader);
const OPERATOR: Access = Access::Role(Role::Operator);

const FOLLOW: Parameter = Parameter {
    name: "follow",
    kind: "boolean",
    about: "go on with what is new until the client hangs up",
};
const SINCE: Parameter = Parameter {
    name: "since",
    kind: "integer",
    about: "only what is not older than so many seconds",
};
const LINES: Parameter = Parameter {
    name: "lines",
    kind: "integer",
    about: "at most so many of the last lines",
};
const NAME: Parameter = Parameter {
    name: "name",
    kind: "string",
    about: "a name of `/v1/logs`",
};

const REBOOT: Parameter = Parameter {
    name: "reboot",
    kind: "string",
    about: "when to reboot into it: `now`, `never` or `HH:MM`",
};
const DOWNGRADE: Parameter = Parameter {
    name: "allow-downgrade",
    kind: "boolean",
    about: "take a release that is older than what runs",
};
const FORCE: Parameter = Parameter {
    name: "force",
    kind: "boolean",
    about: "take a version that has failed here before",
};

const BUNDLE: Parameter = Parameter {
    name: "bundle",
    kind: "string",
    about: "SHA-256 of the bundle up to its signature's end: the client's earlier push of the same one, whose connection may be broken, makes way",
};

/// Every route.
pub const ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/healthz",
        access: Access::Anyone,
        about: "Says `ok`, and nothing about the node.",
        parameters: &[],
        takes: None,
        gives: Gives::Bytes("text/plain"),
        handler: handler!(healthz),
    },
    Route {
        method: Method::GET,
        path: "/v1/status",
        access: READER,
        about: "Versions, slot, boot phases, services, cluster, disks, network, temperatures.",
        parameters: &[],
        takes: None,
        gives: Gives::Json("Status"),
        handler: handler!(status::status),
    },
    Route {
        method: Method::GET,
        path: "/v1/logs",
        access: READER,
        about: "Which logs there are: services, the cluster's components, `kernel` and `init`.",
        parameters: &[],
        takes: None,
        gives: Gives::Json("Logs"),
        handler: handler!(logs::list),
    },
    Route {
        method: Method::GET,
        path: "/v1/logs/{name}",
        access: READER,
        about: "A log's lines.",
        parameters: &[NAME, FOLLOW, SINCE, LINES],
        takes: None,
        gives: Gives::Bytes("text/plain"),
        handler: handler!(logs::read),
    },
    Route {
        method: Method::GET,
        path: "/v1/events",
        access: READER,
        about: "What has happened since the boot, oldest first.",
        parameters: &[FOLLOW, SINCE, LINES],
        takes: None,
        gives: Gives::Lines("Event"),
        handler: handler!(events::read),
    },
    Route {
        method: Method::GET,
        path: "/v1/seed",
        access: READER,
        about: "The seed in force, without its secrets.",
        parameters: &[],
        takes: None,
        gives: Gives::Json("SeedInForce"),
        handler: handler!(seed::show),
    },
    Route {
        method: Method::POST,
        path: "/v1/seed/diff",
        access: READER,
        about: "What applying a seed would change. Changes nothing.",
        parameters: &[],
        takes: Some("Documents"),
        gives: Gives::Json("SeedDiff"),
        handler: handler!(seed::diff),
    },
    Route {
        method: Method::PUT,
        path: "/v1/seed",
        access: OPERATOR,
        about: "Applies a seed: checks it and stores it for the next boots, as long as the seed from outside stays the same. The node API's identity, keys of ssh and registries change at once.",
        parameters: &[],
        takes: Some("Documents"),
        gives: Gives::Json("SeedDiff"),
        handler: handler!(seed::apply),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/seed",
        access: OPERATOR,
        about: "Forgets an applied seed: from the next boot on the one from outside counts.",
        parameters: &[],
        takes: None,
        gives: Gives::Nothing,
        handler: handler!(seed::forget),
    },
    Route {
        method: Method::GET,
        path: "/v1/kubeconfig",
        access: OPERATOR,
        about: "The cluster administrator's kubeconfig, with the API's address as the node sees it.",
        parameters: &[],
        takes: None,
        gives: Gives::Bytes("application/yaml"),
        handler: handler!(cluster::kubeconfig),
    },
    Route {
        method: Method::GET,
        path: "/v1/agent-token",
        access: OPERATOR,
        about: "The token that agents join this server's cluster with.",
        parameters: &[],
        takes: None,
        gives: Gives::Bytes("text/plain"),
        handler: handler!(cluster::agent_token),
    },
    Route {
        method: Method::GET,
        path: "/v1/support",
        access: OPERATOR,
        about: "A support bundle (tar.gz): status, events, logs, the seed; no secrets.",
        parameters: &[],
        takes: None,
        gives: Gives::Bytes("application/gzip"),
        handler: handler!(support::bundle),
    },
    Route {
        method: Method::GET,
        path: "/v1/update",
        access: READER,
        about: "The update that is being done, or the last one since the boot, and the channel.",
        parameters: &[],
        takes: None,
        gives: Gives::Json("Update"),
        handler: handler!(update::api::show),
    },
    Route {
        method: Method::POST,
        path: "/v1/update",
        access: OPERATOR,
        about: "Begins an update: the node fetches a bundle into the slot that doesn't run, and goes on with it after a restart or power cut. 409 while another is under way.",
        parameters: &[],
        takes: Some("UpdateOrder"),
        gives: Gives::Json("Update"),
        handler: handler!(update::api::fetch),
    },
    Route {
        method: Method::POST,
        path: "/v1/update/push",
        access: OPERATOR,
        about: "Begins an update from a bundle that the client has, by `Upgrade: slipway-bundle`: the node asks for the parts that it lacks. What is said is in `images/src/bundle/wire.rs`; its texts are `Update`.",
        parameters: &[REBOOT, DOWNGRADE, FORCE, BUNDLE],
        takes: None,
        gives: Gives::Upgrade("slipway-bundle"),
        handler: handler!(update::api::push),
    },
    Route {
        method: Method::DELETE,
        path: "/v1/update",
        access: OPERATOR,
        about: "Stops the update that is being done; what is staged already stays so, but the node no longer reboots into it by itself.",
        parameters: &[],
        takes: None,
        gives: Gives::Json("Update"),
        handler: handler!(update::api::stop),
    },
    Route {
        method: Method::GET,
        path: "/v1/firmware",
        access: READER,
        about: "What runs before a slot is chosen, compared with what the image carries. 404 where that carries nothing.",
        parameters: &[],
        takes: None,
        gives: Gives::Json("Firmware"),
        handler: handler!(firmware::show),
    },
    Route {
        method: Method::POST,
        path: "/v1/firmware",
        access: OPERATOR,
        about: "Writes what of it differs: a power cut meanwhile can leave a machine that doesn't start. 409 during an update, or while the version that runs has still to prove itself.",
        parameters: &[],
        takes: None,
        gives: Gives::Json("Firmware"),
        handler: handler!(firmware::renew),
    },
    Route {
        method: Method::POST,
        path: "/v1/reboot",
        access: OPERATOR,
        about: "Stops everything in order and reboots.",
        parameters: &[],
        takes: None,
        gives: Gives::Nothing,
        handler: handler!(power::reboot),
    },
    Route {
        method: Method::POST,
        path: "/v1/poweroff",
        access: OPERATOR,
        about: "Stops everything in order and powers off.",
        parameters: &[],
        takes: None,
        gives: Gives::Nothing,
        handler: handler!(power::poweroff),
    },
    Route {
        method: Method::POST,
        path: "/v1/reset",
        access: OPERATOR,
        about: "Factory reset: reboots, and makes the data partition anew. Slots and the seed from outside stay.",
        parameters: &[],
        takes: Some("ResetOrder"),
        gives: Gives::Nothing,
        handler: handler!(power::reset),
    },
    Route {
        method: Method::POST,
        path: "/v1/shell",
        access: OPERATOR,
        about: "A shell on a terminal, by `Upgrade: slipway-shell`. The frames are in `images/src/node/shell.rs`.",
        parameters: &[],
        takes: None,
        gives: Gives::Upgrade("slipway-shell"),
        handler: handler!(shell::open),
    },
];

/// A request on its way to its handler.
pub struct Call {
    /// What all requests share.
    pub app: Arc<App>,
    /// Who asks; there always is one where the route wants a role.
    pub caller: Option<Caller>,
    /// From where.
    pub peer: SocketAddr,
    /// The request itself.
    pub request: Request<Incoming>,
    /// What stands for `{...}` in the path.
    pub segment: String,
}

impl Call {
    /// A parameter of the query. Names and values of this API need no escapes.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        let query = self.request.uri().query()?;
        query
            .split('&')
            .filter_map(|pair| pair.split_once('=').or(Some((pair, "true"))))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// A number in the query.
    ///
    /// # Errors
    /// 400 for what is none.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.query(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("{name} is no whole number"),
            )
        })
    }

    /// Whether the query says that this holds.
    ///
    /// # Errors
    /// 400 for neither `true` nor `false`.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.query(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                format!("{name} is neither true nor false"),
            )),
        }
    }

    /// The body, as JSON of a type.
    ///
    /// # Errors
    /// 408 when it doesn't come, 413 when it is too large, 400 when it isn't what it should be.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Refusal> {
        let body = Limited::new(self.request.body_mut(), BODY_LIMIT);
        // It is small, so the whole of it has the time that a part may take.
        let collected = tokio::time::timeout(self.app.tuning.patience, body.collect())
            .await
            .map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come"))?;
        let bytes = collected
            .map_err(
                |error| match error.is::<http_body_util::LengthLimitError>() {
                    true => Refusal::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        format!("the body is longer than {BODY_LIMIT} bytes"),
                    ),
                    false => Refusal::new(StatusCode::BAD_REQUEST, "the body was broken off"),
                },
            )?
            .to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| {
            // Its words may quote a value, and values are secrets.
            let what = format!(
                "the body is not what it should be (line {}, column {})",
                error.line(),
                error.column()
            );
            Refusal::new(StatusCode::BAD_REQUEST, what)
        })
    }
}

/// Answers a request: finds its route, checks the role, lets the handler work.
pub async fn answer(
    app: Arc<App>,
    caller: Option<Caller>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Answer {
    lead(app, caller, peer, request)
        .await
        .unwrap_or_else(Refusal::answer)
}

async fn lead(
    app: Arc<App>,
    caller: Option<Caller>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Outcome {
    let path = request.uri().path().to_owned();
    let fitting = |route: &&Route| segment(route.path, &path).is_some();
    let route = ROUTES
        .iter()
        .filter(fitting)
        .find(|route| route.method == request.method());
    // Strangers don't learn which paths there are.
    let access = route.map_or(READER, |route| route.access);
    if let Access::Role(needed) = access {
        let Some(caller) = &caller else {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "a client certificate of this node's CA is needed",
            ));
        };
        if caller.role < Some(needed) {
            let error = format!(
                "`{}` lacks the role: the certificate's organisation must be {}",
                caller.name,
                needed.organization()
            );
            return Err(Refusal::new(StatusCode::FORBIDDEN, error));
        }
    }
    let Some(route) = route else {
        return Err(match ROUTES.iter().any(|route| fitting(&route)) {
            true => Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "no such method here"),
            false => Refusal::new(StatusCode::NOT_FOUND, format!("there is no {path}")),
        });
    };
    let segment = segment(route.path, &path).unwrap_or_default().to_owned();
    (route.handler)(Call {
        app,
        caller,
        peer,
        request,
        segment,
    })
    .await
}

/// What stands in `path` for the pattern's `{...}`; empty for a pattern without; none if it
/// doesn't fit.
fn segment<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    match pattern.split_once('{') {
        None => (pattern == path).then_some(""),
        Some((before, _)) => path
            .strip_prefix(before)
            .filter(|rest| !rest.is_empty() && !rest.contains('/')),
    }
}

/// `GET /healthz`
async fn healthz(_call: Call) -> Outcome {
    Ok(whole(StatusCode::OK, "text/plain", "ok\n"))
}
