//! `/v1/update`.

use http_body_util::{BodyExt as _, Empty};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode};
use slipway_images::bundle::Digest;
use slipway_images::node::update::{How, PUSH_PROTOCOL, Reboot, UpdateOrder};

use super::Pusher;
use super::order::Order;
use crate::answer::{Outcome, Refusal, json};
use crate::audit;
use crate::routes::Call;

/// `GET /v1/update`
pub async fn show(call: Call) -> Outcome {
    json(&call.app.updates.status())
}

/// `POST /v1/update`
pub async fn fetch(mut call: Call) -> Outcome {
    let UpdateOrder { url, how } = call.json().await?;
    check(&url).map_err(|why| Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, why))?;
    let shown = shown(&url);
    let order = Order {
        url,
        ..Order::pushed(how)
    };
    let updates = call.app.updates.clone();
    call.app.blocking(move || updates.fetch(order)).await??;
    audit::note(&call, &format!("updates the node from {shown}"));
    json(&call.app.updates.status())
}

/// `POST /v1/update/push`
pub async fn push(mut call: Call) -> Outcome {
    let asked = call.request.headers().get(UPGRADE);
    if asked.is_none_or(|protocol| protocol != PUSH_PROTOCOL) {
        let error = format!("pushing needs `Upgrade: {PUSH_PROTOCOL}`");
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, error));
    }
    let reboot = call.query("reboot").map(str::parse::<Reboot>).transpose();
    let how = How {
        reboot: reboot
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("reboot {error}")))?
            .unwrap_or_default(),
        allow_downgrade: call.flag("allow-downgrade")?,
        force: call.flag("force")?,
    };
    let bundle = call.query("bundle").map(str::parse::<Digest>).transpose();
    let pusher = Pusher {
        who: (call.caller.as_ref()).map_or_else(|| "nobody".into(), |caller| caller.name.clone()),
        bundle: bundle
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, format!("bundle: {error}")))?,
    };
    let upgrade = hyper::upgrade::on(&mut call.request);
    let (updates, same) = (call.app.updates.clone(), pusher.clone());
    call.app.blocking(move || updates.make_way(&same)).await?;
    call.app.updates.push(pusher, how, upgrade)?;
    audit::note(&call, "pushes an update");
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PUSH_PROTOCOL));
    Ok(answer)
}

/// `DELETE /v1/update`
pub async fn stop(call: Call) -> Outcome {
    let updates = call.app.updates.clone();
    call.app.blocking(move || updates.stop()).await?;
    audit::note(&call, "stops the update");
    json(&call.app.updates.status())
}

/// Whether it is the URL of a file; else why not.
///
/// # Errors
/// A sentence without the URL, which may hold a secret.
pub fn check(url: &str) -> Result<(), String> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))
        .ok_or("the URL begins with neither https:// nor http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || path.is_empty() {
        return Err("the URL names no file".into());
    }
    if host.contains('@') || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("the URL has a user or a blank in it".into());
    }
    Ok(())
}

/// A URL without what may be secret in it.
#[must_use]
pub fn shown(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_files() {
        assert_eq!(check("https://h/x.slip"), Ok(()));
        assert_eq!(check("http://192.0.2.1:8000/a/b.slip?key=1"), Ok(()));
        for wrong in [
            "",
            "h/x",
            "ftp://h/x",
            "http://h",
            "http:///x",
            "http://u:p@h/x",
            "http://h/a b",
        ] {
            let why = check(wrong).unwrap_err();
            assert!(!why.contains("u:p"), "{why}");
        }
        assert_eq!(shown("http://h/x.slip?key=secret#f"), "http://h/x.slip");
    }
}
