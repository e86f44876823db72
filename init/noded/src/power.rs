//! Ending the machine: reboot, power-off, factory reset.

use hyper::StatusCode;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use slipway_images::node::api::ResetOrder;
use slipway_init::pid1::SIGNALS;
use slipway_init::reset;
use slipway_init::shutdown::Kind;

use crate::answer::{Outcome, Refusal, json};
use crate::audit;
use crate::routes::Call;

/// `POST /v1/reboot`
pub async fn reboot(call: Call) -> Outcome {
    audit::note(&call, "reboots the node");
    end(&call, Kind::Reboot)
}

/// `POST /v1/poweroff`
pub async fn poweroff(call: Call) -> Outcome {
    audit::note(&call, "powers the node off");
    end(&call, Kind::PowerOff)
}

/// `POST /v1/reset`: the data partition is marked, and `init` makes it anew at the next boot.
/// Power may be cut at any moment: the mark is there or not.
pub async fn reset(mut call: Call) -> Outcome {
    let order: ResetOrder = call.json().await?;
    let name = call.app.name();
    if order.node != name {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            format!(
                "this node is `{name}`, not `{}`; nothing was erased",
                order.node
            ),
        ));
    }
    let paths = call.app.paths.clone();
    let marked = call.app.blocking(move || reset::mark(paths.root())).await?;
    marked.map_err(|why| {
        Refusal::new(
            StatusCode::CONFLICT,
            format!("the data partition can't be reset: {why}"),
        )
    })?;
    audit::note(
        &call,
        "resets the node: its data is erased with the next boot",
    );
    end(&call, Kind::Reboot)
}

fn end(call: &Call, kind: Kind) -> Outcome {
    ask(call.app.tuning.init, kind)?;
    json(&serde_json::json!({}))
}

/// Asks PID 1, which is the process `init`, to end the machine.
///
/// # Errors
/// 500 when it can't be asked.
pub fn ask(init: i32, kind: Kind) -> Result<(), Refusal> {
    let signal = SIGNALS
        .iter()
        .find(|(_, k)| *k == kind)
        .map(|(signal, _)| *signal);
    let signal = signal.ok_or_else(|| Refusal::failed("init takes no signal for that"))?;
    kill(Pid::from_raw(init), signal)
        .map_err(|error| Refusal::failed(format!("asking init: {error}")))
}
