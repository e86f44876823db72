//! Whether the node is Ready, asked of its API in the background.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime};

use slipway_access::api::{ApiError, Client};
use slipway_access::kubeconfig::Kubeconfig;

use crate::error::{Error, Kind, Result};

/// Between two questions.
const PERIOD: Duration = Duration::from_millis(500);
/// For one. QEMU accepts connections before the guest listens, and then nothing
/// comes back.
const PATIENCE: Duration = Duration::from_secs(3);
/// How far the clocks of host and guest may differ.
const SKEW: Duration = Duration::from_secs(10);

/// Asks until the node is Ready.
pub struct Watcher {
    readable: UnixStream,
    /// Dropped to end the asking.
    _stop: Sender<()>,
}

impl Watcher {
    /// Begins to ask. `since` is when the machine was started: what the API has
    /// stored about the node from an earlier boot says nothing.
    ///
    /// # Errors
    /// [`Kind::Bug`] if the kubeconfig can't be used.
    pub fn start(config: &Kubeconfig, node: &str, since: SystemTime) -> Result<Self> {
        let client = Client::from_kubeconfig(config)
            .map_err(|e| Error::new(Kind::Bug, format!("the kubeconfig: {e}")))?;
        let (readable, mut writable) = UnixStream::pair()
            .map_err(|e| Error::new(Kind::Io, format!("making a socket pair: {e}")))?;
        let (stop, stopped) = mpsc::channel();
        let node = node.to_owned();
        thread::spawn(move || {
            // Until then every error is what a machine that is starting answers.
            while !is_ready(&client, &node, since).unwrap_or(false) {
                match stopped.recv_timeout(PERIOD) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            // Nobody may be listening any more.
            writable.write_all(b"r").unwrap_or_default();
        });
        Ok(Self {
            readable,
            _stop: stop,
        })
    }

    /// Readable once the node is Ready.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

/// Whether the API is up, the node has been Ready since `since`, and a pod can be made: the
/// service account it runs as comes from the controller-manager, some seconds after the node.
///
/// # Errors
/// Those of the API: until it is up, every error is what a starting machine answers.
pub fn is_ready(client: &Client, node: &str, since: SystemTime) -> Result<bool, ApiError> {
    client.get_text("/readyz", PATIENCE)?;
    let object = client.get(&format!("/api/v1/nodes/{node}"))?;
    let ready = object["status"]["conditions"]
        .as_array()
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        });
    if !ready {
        return Ok(false);
    }
    // The kubelet renews this every ten seconds; the Ready condition may be what
    // it said before the machine went off.
    let lease = client.get(&format!(
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}"
    ))?;
    let renewed = lease["spec"]["renewTime"].as_str().and_then(parse_time);
    if renewed.is_none_or(|renewed| renewed + SKEW < since) {
        return Ok(false);
    }
    client.get("/api/v1/namespaces/default/serviceaccounts/default")?;
    Ok(true)
}

/// RFC 3339 in UTC, as the API writes it: `2026-11-24T15:04:05.000000Z`.
fn parse_time(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let bytes = text.as_bytes();
    if bytes.len() < 20
        || bytes[4] != b'-'
        || bytes[7] != b'-'
        || bytes[10] != b'T'
        || bytes.last() != Some(&b'Z')
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from civil, with the year beginning in March (H. Hinnant).
    let y = year - u64::from(month <= 2);
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let days = y * 365 + y / 4 - y / 100 + y / 400 + day_of_year;
    let seconds = (days.checked_sub(719_468)?) * 86_400
        + number(11..13)? * 3600
        + number(14..16)? * 60
        + number(17..19)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_what_date_says() {
        let seconds = |text| {
            parse_time(text)
                .unwrap()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        assert_eq!(seconds("1970-01-01T00:00:00Z"), 0);
        assert_eq!(seconds("2000-02-29T12:34:56Z"), 951_827_696);
        assert_eq!(seconds("2026-11-24T15:04:05.123456Z"), 1_795_532_645);
        assert_eq!(seconds("2024-12-31T23:59:59Z"), 1_735_689_599);
        for not in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-11-24 15:04:05.0000Z",
        ] {
            assert!(parse_time(not).is_none(), "{not}");
        }
    }

    proptest! {
        #[test]
        fn reading_a_time_never_panics(text in "\\PC{0,30}", digits in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z") {
            parse_time(&text);
            parse_time(&digits);
        }
    }
}
