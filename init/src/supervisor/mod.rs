//! Supervision of services: start in order, readiness, restart with backoff, stop in
//! reverse order.
//!
//! The supervisor does no waiting of its own. The main loop tells it what happened
//! ([`Supervisor::exited`], [`Supervisor::notified`], [`Supervisor::set_condition`]) and
//! calls [`Supervisor::tick`], which does what is due and says when to be called again.

mod logfile;
mod notify;
mod unit;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use slipway_images::service::{CONDITIONS, Ready, Service};

pub use logfile::{Capture, LogFile};
pub use notify::{Message, NotifySocket, parse as parse_notify};
pub use unit::{State, Unit};

use crate::reaper::Reaper;
use crate::say;

/// After so long in good health the next restart is quick again.
const HEALTHY: Duration = Duration::from_secs(60);
/// How often a socket that should appear is looked for.
const SOCKET_POLL: Duration = Duration::from_millis(25);

/// Where services' files are.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Directory of captured output.
    pub logs: PathBuf,
    /// Directory of the notify sockets.
    pub notify: PathBuf,
    /// cgroup with one group below it for each service; none in tests.
    pub cgroup: Option<PathBuf>,
}

/// All services and how they are.
pub struct Supervisor {
    units: Vec<Unit>,
    conditions: BTreeSet<String>,
    reaper: Reaper,
    stopping: bool,
}

impl Supervisor {
    /// Takes the services, in an order from `slipway_images::service::start_order`.
    ///
    /// # Errors
    /// When sockets, pipes or threads cannot be made.
    pub fn new(services: Vec<Service>, paths: &Paths, reaper: Reaper) -> std::io::Result<Self> {
        let units = services
            .into_iter()
            .map(|service| Unit::new(service, paths))
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            units,
            conditions: BTreeSet::new(),
            reaper,
            stopping: false,
        })
    }

    /// The services.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The service of this name.
    pub fn unit(&self, name: &str) -> Option<&Unit> {
        self.units.iter().find(|u| u.service.name == name)
    }

    /// Says that a condition that services may name in `after` holds.
    pub fn set_condition(&mut self, name: &str) {
        self.conditions.insert(name.to_owned());
    }

    /// Says that a condition holds no more: services that name it are stopped, and wait for it.
    pub fn withdraw_condition(&mut self, name: &str) {
        self.conditions.remove(name);
    }

    /// Whether a condition that the service was started under holds no more.
    fn is_withdrawn(&self, unit: &Unit) -> bool {
        let lacks =
            |need: &String| CONDITIONS.contains(&need.as_str()) && !self.conditions.contains(need);
        unit.service.after.iter().any(lacks)
    }

    fn needs_met(&self, unit: &Unit) -> bool {
        unit.service.after.iter().all(|need| {
            self.conditions.contains(need)
                || self
                    .unit(need)
                    .is_some_and(|u| matches!(u.state, State::Ready { .. }))
        }) && unit
            .service
            .uses
            .iter()
            .all(|used| self.unit(used).is_some_and(|u| u.pid().is_some()))
    }

    /// Whether a service that needs this one is still running.
    fn is_needed(&self, name: &str) -> bool {
        self.units.iter().any(|u| {
            let mut needs = u.service.after.iter().chain(&u.service.uses);
            u.pid().is_some() && needs.any(|need| need == name)
        })
    }

    /// Does all that is due. Gives when to call again at the latest.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let mut changed = false;
            for index in 0..self.units.len() {
                changed |= self.step(index, now);
            }
            if !changed {
                break;
            }
        }
        self.units.iter().filter_map(|u| u.next_event(now)).min()
    }

    /// Moves one unit on. Gives whether others should be looked at again.
    fn step(&mut self, index: usize, now: Instant) -> bool {
        let Some(unit) = self.units.get(index) else {
            return false;
        };
        let name = unit.service.name.clone();
        let may_start = !self.stopping && self.needs_met(unit);
        let may_stop = match self.stopping {
            true => !self.is_needed(&name),
            false => self.is_withdrawn(unit),
        };
        let reaper = self.reaper.clone();
        let Some(unit) = self.units.get_mut(index) else {
            return false;
        };
        match unit.state {
            State::Waiting if self.stopping => {
                unit.state = State::Stopped;
                true
            }
            State::Backoff { .. } if self.stopping => {
                unit.state = State::Stopped;
                true
            }
            State::Waiting if may_start => {
                unit.start(&reaper, now);
                true
            }
            State::Backoff { until } if now >= until => {
                unit.state = State::Waiting;
                true
            }
            State::Starting { .. } | State::Ready { .. } if may_stop => {
                unit.stop(now);
                false
            }
            State::Starting { since, .. } => {
                if let Ready::Socket(path) = &unit.service.ready
                    && std::os::unix::net::UnixStream::connect(path).is_ok()
                {
                    unit.ready(now);
                    return true;
                }
                if now >= since + unit.service.start_timeout {
                    say!(
                        "{name}: not ready after {:?}, restarting it",
                        unit.service.start_timeout
                    );
                    unit.kill();
                }
                false
            }
            State::Ready { last_sign, .. } => {
                if let Some(limit) = unit.service.watchdog
                    && now >= last_sign + limit
                {
                    say!("{name}: no sign of life for {limit:?}, restarting it");
                    unit.kill();
                }
                false
            }
            State::Stopping { until, .. } if now >= until => {
                say!(
                    "{name}: did not stop in {:?}, killed",
                    unit.service.stop_timeout
                );
                unit.kill();
                false
            }
            _ => false,
        }
    }

    /// Takes note of a child's end. Gives whether it was a service.
    pub fn exited(&mut self, pid: i32, status: ExitStatus, now: Instant) -> bool {
        let stopping = self.stopping;
        match self.units.iter_mut().find(|u| u.pid() == Some(pid)) {
            Some(unit) => {
                unit.exited(status, stopping, now);
                true
            }
            None => false,
        }
    }

    /// Takes in what services have said on their sockets.
    pub fn notified(&mut self, now: Instant) {
        for unit in &mut self.units {
            while let Some((pid, message)) = unit.notify.receive() {
                // Children of a service inherit the address; only the service itself counts.
                if Some(pid) == unit.pid() {
                    unit.notified(&message, now);
                }
            }
        }
    }

    /// Says how a service is that can't say it itself.
    pub fn set_status(&mut self, name: &str, status: String) {
        if let Some(unit) = self.units.iter_mut().find(|u| u.service.name == name) {
            unit.say_status(status);
        }
    }

    /// Shows on the console what the cluster says of itself, when that is new.
    pub fn show_status(&mut self) {
        for unit in self.units.iter_mut().filter(|u| u.status_is_new) {
            unit.status_is_new = false;
            match unit.service.name.as_str() {
                _ if unit.status.is_empty() => {}
                "clusterd" => say!("cluster: {}", unit.status),
                name => say!("{name}: {}", unit.status),
            }
        }
    }

    /// Begins to stop everything, those first that others do not need.
    pub fn stop_all(&mut self) {
        self.stopping = true;
    }

    /// Whether nothing runs any more.
    pub fn is_stopped(&self) -> bool {
        self.units.iter().all(|u| u.pid().is_none())
    }
}
