//! SNTP: the time from servers, checked, stepped when far off and slewed when near.
//!
//! RFC 4330 and, for the checks, RFC 5905. 48 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | LI 2 bits (3: not synchronised), VN 3 bits, Mode 3 bits (3 client, 4 server) |
//! | 1 | 1 | Stratum, 1 to 15; 0 is a refusal with a code in Reference ID |
//! | 4 | 4 | Root Delay, 16.16 seconds |
//! | 8 | 4 | Root Dispersion, 16.16 seconds |
//! | 12 | 4 | Reference ID |
//! | 24 | 8 | Origin Timestamp: our Transmit Timestamp back |
//! | 32 | 8 | Receive Timestamp |
//! | 40 | 8 | Transmit Timestamp |
//!
//! Timestamps are 32.32 seconds since 1900, and wrap in 2036: they are read as the one
//! nearest to a time known to be about right.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::net::TimeServers;
use crate::phase::{Context, Failure};
use crate::{clock, files, say, sys};

/// Used when the network names none.
const DEFAULT_SERVERS: [&str; 4] = [
    "0.pool.ntp.org",
    "1.pool.ntp.org",
    "2.pool.ntp.org",
    "3.pool.ntp.org",
];
const PORT: u16 = 123;
/// From 1900 to 1970 in seconds.
const EPOCH_OFFSET: i128 = 2_208_988_800;
/// An offset at least so large is stepped.
const STEP: f64 = 0.5;
/// A server whose distance to the reference is larger is not believed (RFC 5905, MAXDIST).
const MAX_DISTANCE: f64 = 1.5;
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_secs(1024);

/// Why an answer is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Shorter than a packet, or not a server's.
    #[error("not an answer of a server")]
    Malformed,
    /// An answer to something we did not ask: late, or forged.
    #[error("an answer to another question")]
    NotOurs,
    /// The server says that it must not be asked so (RFC 5905, 7.4).
    #[error("the server refuses: {0}")]
    KissOfDeath(String),
    /// The server itself does not know the time.
    #[error("the server is not synchronised")]
    Unsynchronised,
}

/// A measured offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// What our clock lacks, in seconds.
    pub offset: f64,
    /// The way there and back, in seconds.
    pub delay: f64,
}

/// 32.32 since 1900 from a time since 1970.
fn to_ntp(time: Duration) -> u64 {
    let seconds = (time.as_secs() as i128 + EPOCH_OFFSET) as u64 & 0xffff_ffff;
    let fraction = (u64::from(time.subsec_nanos()) << 32) / 1_000_000_000;
    (seconds << 32) | fraction
}

/// Seconds from one timestamp to another less than 68 years away.
fn difference(to: u64, from: u64) -> f64 {
    to.wrapping_sub(from) as i64 as f64 / 4_294_967_296.0
}

/// The request. `cookie` is random: it says nothing of our clock, and nobody can guess it.
pub fn request(cookie: u64) -> [u8; 48] {
    let mut packet = [0; 48];
    packet[0] = 4 << 3 | 3;
    packet[40..48].copy_from_slice(&cookie.to_be_bytes());
    packet
}

/// Checks an answer and computes the offset. `sent` and `received` are our clock's times.
///
/// # Errors
/// [`Refusal`].
pub fn evaluate(
    packet: &[u8],
    cookie: u64,
    sent: Duration,
    received: Duration,
) -> Result<Sample, Refusal> {
    let packet: &[u8; 48] = packet.first_chunk().ok_or(Refusal::Malformed)?;
    let field = |at: usize| -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&packet[at..at + 8]);
        u64::from_be_bytes(bytes)
    };
    let short = |at: usize| (field(at) >> 32) as f64 / 65536.0;
    if packet[0] & 7 != 4 || !(1..=4).contains(&(packet[0] >> 3 & 7)) {
        return Err(Refusal::Malformed);
    }
    if field(24) != cookie {
        return Err(Refusal::NotOurs);
    }
    let (stratum, receive, transmit) = (packet[1], field(32), field(40));
    if stratum == 0 {
        let code = String::from_utf8_lossy(&packet[12..16]).into_owned();
        return Err(Refusal::KissOfDeath(code));
    }
    let unsynchronised = packet[0] >> 6 == 3 || stratum > 15 || receive == 0 || transmit == 0;
    if unsynchronised || short(4) / 2.0 + short(8) >= MAX_DISTANCE {
        return Err(Refusal::Unsynchronised);
    }
    let (t1, t4) = (to_ntp(sent), to_ntp(received));
    let delay = difference(t4, t1) - difference(transmit, receive);
    let offset = (difference(receive, t1) + difference(transmit, t4)) / 2.0;
    Ok(Sample {
        offset,
        delay: delay.max(0.0),
    })
}

/// What several servers together say: of the largest group that agrees within their delays,
/// the sample with the least delay. One liar among three is outvoted.
pub fn choose(samples: &[Sample]) -> Option<Sample> {
    let agree =
        |a: &Sample, b: &Sample| (a.offset - b.offset).abs() <= (a.delay + b.delay) / 2.0 + 0.1;
    let support = |s: &Sample| samples.iter().filter(|o| agree(s, o)).count();
    let best = samples.iter().map(support).max()?;
    if best * 2 <= samples.len() && samples.len() > 1 {
        return None;
    }
    samples
        .iter()
        .filter(|s| support(s) == best)
        .min_by(|a, b| a.delay.total_cmp(&b.delay))
        .copied()
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn ask(server: SocketAddr) -> Result<Sample, Failure> {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).context("socket")?;
    socket.connect(server).context("connect")?;
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .context("time-out")?;
    let cookie = files::random()
        .map(u64::from_ne_bytes)
        .context("/dev/urandom")?;
    let sent = since_1970();
    socket.send(&request(cookie)).context("send")?;
    let mut buffer = [0; 128];
    // A late answer to an earlier question does not end the waiting.
    for _ in 0..4 {
        let length = socket.recv(&mut buffer).context("no answer")?;
        match evaluate(
            buffer.get(..length).unwrap_or_default(),
            cookie,
            sent,
            since_1970(),
        ) {
            Err(Refusal::NotOurs) => {}
            other => return other.map_err(Failure::from),
        }
    }
    Err(Failure("only foreign answers".into()))
}

fn addresses(names: &[String]) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for name in names {
        // A name that is not known now may be at the next try.
        if let Ok(found) = (name.as_str(), PORT).to_socket_addrs() {
            all.extend(found.take(1));
        }
    }
    all.dedup();
    all.truncate(4);
    all
}

/// One round with all servers.
///
/// # Errors
/// When no time can be believed.
fn measure(servers: &[SocketAddr]) -> Result<Sample, Failure> {
    let mut samples = Vec::new();
    let mut last = Failure("no server of time is known".into());
    for server in servers {
        match ask(*server) {
            Ok(sample) => samples.push(sample),
            Err(failure) => last = Failure(format!("{server}: {failure}")),
        }
    }
    if samples.is_empty() {
        return Err(last);
    }
    choose(&samples).ok_or_else(|| Failure("the servers of time contradict each other".into()))
}

/// Brings the clock to what was measured; never before `floor` (seconds since 1970).
fn apply(sample: Sample, floor: i64) -> Result<(), Failure> {
    let target = since_1970().as_secs_f64() + sample.offset;
    if target < floor as f64 {
        return Err(Failure(
            "the servers' time is before the image was built".into(),
        ));
    }
    if sample.offset.abs() >= STEP {
        clock::set(Duration::try_from_secs_f64(target).context("the servers' time")?)?;
        say!("clock stepped by {:+.1} s", sample.offset);
    } else {
        sys::slew_clock((sample.offset * 1e6) as i64).context("slewing the clock")?;
    }
    sys::mark_clock_synchronised().context("marking the clock")
}

/// The client's endless loop, for a thread. While time servers are turned off it sleeps. `wake`
/// is called when the clock is first right.
pub fn run(servers: &TimeServers, floor: i64, online: &AtomicBool, mut wake: impl FnMut()) {
    let defaults: Vec<String> = DEFAULT_SERVERS.map(str::to_owned).to_vec();
    let mut pause = FIRST_PAUSE;
    let mut good = false;
    let mut told = false;
    loop {
        let seen = servers.changes();
        if !servers.are_on() {
            servers.wait(POLL, seen);
            continue;
        }
        if !online.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_secs(1));
            continue;
        }
        let mut names = servers.all();
        if names.is_empty() {
            names.clone_from(&defaults);
        }
        match measure(&addresses(&names)).and_then(|sample| apply(sample, floor)) {
            Ok(()) => {
                if !good {
                    wake();
                }
                good = true;
                told = false;
                pause = POLL;
            }
            Err(failure) => {
                if !told {
                    say!("clock: no time from the network yet: {failure}");
                }
                told = true;
                pause = if good { POLL } else { (pause * 2).min(POLL) };
            }
        }
        servers.wait(pause, seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COOKIE: u64 = 0x0123_4567_89ab_cdef;

    fn answer(receive: Duration, transmit: Duration) -> [u8; 48] {
        let mut p = [0; 48];
        p[0] = 4 << 3 | 4;
        p[1] = 2;
        p[24..32].copy_from_slice(&COOKIE.to_be_bytes());
        p[32..40].copy_from_slice(&to_ntp(receive).to_be_bytes());
        p[40..48].copy_from_slice(&to_ntp(transmit).to_be_bytes());
        p
    }

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn offset_and_delay() {
        // We are 100 s late; 0.2 s there, 0.1 s in the server, 0.2 s back.
        let p = answer(s(1_800_000_100.2), s(1_800_000_100.3));
        let sample = evaluate(&p, COOKIE, s(1_800_000_000.0), s(1_800_000_000.5)).unwrap();
        assert!((sample.offset - 100.0).abs() < 1e-3, "{sample:?}");
        assert!((sample.delay - 0.4).abs() < 1e-3, "{sample:?}");
    }

    #[test]
    fn beyond_2036() {
        let p = answer(s(2_100_000_010.0), s(2_100_000_010.0));
        let sample = evaluate(&p, COOKIE, s(2_100_000_000.0), s(2_100_000_000.0)).unwrap();
        assert!((sample.offset - 10.0).abs() < 1e-3);
        // Over the wrap itself (7 February 2036).
        let p = answer(s(2_085_978_500.0), s(2_085_978_500.0));
        let sample = evaluate(&p, COOKIE, s(2_085_978_490.0), s(2_085_978_490.0)).unwrap();
        assert!((sample.offset - 10.0).abs() < 1e-3, "{sample:?}");
    }

    #[test]
    fn refusals() {
        let now = s(1_800_000_000.0);
        let good = answer(now, now);
        let check = |change: fn(&mut [u8; 48])| {
            let mut p = good;
            change(&mut p);
            evaluate(&p, COOKIE, now, now).unwrap_err()
        };
        assert_eq!(
            evaluate(&good[..47], COOKIE, now, now),
            Err(Refusal::Malformed)
        );
        assert_eq!(evaluate(&good, COOKIE ^ 1, now, now), Err(Refusal::NotOurs));
        assert_eq!(check(|p| p[0] = 4 << 3 | 3), Refusal::Malformed);
        assert_eq!(check(|p| p[0] |= 3 << 6), Refusal::Unsynchronised);
        assert_eq!(check(|p| p[1] = 16), Refusal::Unsynchronised);
        assert_eq!(check(|p| p[9] = 2), Refusal::Unsynchronised);
        assert_eq!(check(|p| p[40..48].fill(0)), Refusal::Unsynchronised);
        let kod = check(|p| {
            p[1] = 0;
            p[12..16].copy_from_slice(b"RATE");
        });
        assert_eq!(kod, Refusal::KissOfDeath("RATE".into()));
    }

    #[test]
    fn one_liar_is_outvoted() {
        let sample = |offset, delay| Sample { offset, delay };
        let chosen = choose(&[sample(9999.0, 0.01), sample(5.0, 0.1), sample(5.05, 0.05)]).unwrap();
        assert!((chosen.offset - 5.05).abs() < 1e-9);
        assert_eq!(choose(&[sample(9999.0, 0.01), sample(5.0, 0.1)]), None);
        assert!(choose(&[sample(1.0, 0.0)]).is_some());
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn a_real_exchange_on_the_loopback() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 48];
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            let ahead = since_1970() + Duration::from_secs(30);
            let mut p = answer(ahead, ahead);
            p[24..32].copy_from_slice(&[9; 8]);
            server.send_to(&p, from).unwrap();
            p[24..32].copy_from_slice(&buffer[40..48]);
            server.send_to(&p, from).unwrap();
        });
        let sample = measure(&[address]).unwrap();
        assert!((sample.offset - 30.0).abs() < 1.0, "{sample:?}");
        thread.join().unwrap();
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), cookie in any::<u64>(), at in any::<u32>()) {
            let now = Duration::from_secs(u64::from(at));
            drop(evaluate(&bytes, cookie, now, now));
            if bytes.len() >= 48 {
                let mut b = bytes;
                b[0] = 4 << 3 | 4;
                b[24..32].copy_from_slice(&cookie.to_be_bytes());
                drop(evaluate(&b, cookie, now, now));
            }
        }
    }
}
