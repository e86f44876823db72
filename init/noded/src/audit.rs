//! Who asked for what: an event, and a line in noded's own log, which outlives a reboot.

use slipway_images::node::Event;

use crate::notice;
use crate::routes::Call;

/// Notes that the caller does `what`.
pub fn note(call: &Call, what: &str) {
    let who = call.caller.as_ref().map_or("nobody", |c| c.name.as_str());
    let message = format!("{what} (from {})", call.peer.ip());
    notice!("audit: {who}: {message}");
    let event = Event::now("audit", who, message);
    if let Err(error) = event.append(&call.app.paths.events()) {
        notice!("the event can't be kept: {error}");
    }
}
