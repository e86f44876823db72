//! Answers: bodies that are whole, bodies that flow, and refusals.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use slipway_images::node::api::Problem;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The body of every answer.
pub type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;
/// An answer.
pub type Answer = Response<AnswerBody>;
/// What a handler gives.
pub type Outcome = Result<Answer, Refusal>;

/// Why a request is refused or failed: a status and one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// One line.
    pub error: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
        }
    }

    /// A failure of the node's own.
    pub fn failed(error: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    }

    /// As an answer.
    #[must_use]
    pub fn answer(self) -> Answer {
        let problem = Problem { error: self.error };
        match json(&problem) {
            Ok(mut answer) => {
                *answer.status_mut() = self.status;
                answer
            }
            Err(refusal) => whole(refusal.status, "text/plain", refusal.error),
        }
    }
}

/// An answer with a body at hand.
pub fn whole(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    dress(status, kind, Full::new(body.into()).boxed_unsync())
}

/// A value as JSON.
///
/// # Errors
/// [`Refusal`]; not for the types of the API.
pub fn json<T: Serialize>(value: &T) -> Outcome {
    let text = serde_json::to_vec(value).map_err(|error| Refusal::failed(error.to_string()))?;
    Ok(whole(StatusCode::OK, "application/json", text))
}

/// An answer whose body comes through the sender; it ends when the sender is gone. `permit`
/// is held until the body is dropped.
pub fn flowing(kind: &'static str, permit: OwnedSemaphorePermit) -> (Sender<Bytes>, Answer) {
    let (sender, receiver) = channel(4);
    let body = Flow {
        receiver,
        _permit: permit,
    };
    (sender, dress(StatusCode::OK, kind, body.boxed_unsync()))
}

fn dress(status: StatusCode, kind: &'static str, body: AnswerBody) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

struct Flow {
    receiver: Receiver<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl Body for Flow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.receiver
            .poll_recv(context)
            .map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }
}
