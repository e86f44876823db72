//! Keeps one component running: waits for what it needs, starts it, watches it, starts it again.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::process::Signal;

use crate::board::{Board, State};
use crate::component::{Component, Name, Need};
use crate::error::{Context, Error};
use crate::log::info;
use crate::output::{self, Tail};
use crate::paths::Paths;
use crate::probe::{Credentials, Prober};
use crate::process::{Process, describe};

/// Between two looks whether a component has come up. There is nothing to wait on: these
/// programs don't say so by themselves.
const READY_INTERVAL: Duration = Duration::from_millis(250);
/// Between two looks whether it still works.
const LIVE_INTERVAL: Duration = Duration::from_secs(10);
/// So many failed looks in a row, five to ten minutes, and it is restarted. That is far
/// more than kubeadm's 8: what merely starves on an overloaded machine answers late, and
/// starting it again is the most expensive thing that could be done to it.
const LIVE_FAILURES: u32 = 30;
/// Longest time to come up; emulated and old machines are slow.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// First and longest pause before starting again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// After so long a life the next pause is the first again.
const HEALTHY: Duration = Duration::from_secs(60);

/// What a keeper works with; changed from outside between two starts.
#[derive(Debug)]
struct Plan {
    component: Component,
    credentials: Credentials,
    /// End the running process and start it from the plan again.
    restart: bool,
    /// End it and don't start it any more.
    stop: bool,
}

/// A component's thread.
#[derive(Debug)]
pub struct Keeper {
    name: Name,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    plan: Mutex<Plan>,
    /// Readable when the plan changed.
    wake: OwnedFd,
}

impl Shared {
    fn plan<T>(&self, use_it: impl FnOnce(&mut Plan) -> T) -> T {
        use_it(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake(&self) -> Result<(), Error> {
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes())
            .map(drop)
            .context(|| "wake a component's thread".to_owned())
    }

    fn rest(&self) {
        let mut count = [0_u8; 8];
        match rustix::io::read(&self.wake, &mut count) {
            // Not readable: somebody else's wake-up, taken already.
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => info!("can't read an eventfd: {error}"),
        }
    }
}

impl Keeper {
    /// Begins keeping a component.
    pub fn start(
        component: Component,
        credentials: Credentials,
        board: Arc<Board>,
        paths: &Paths,
    ) -> Result<Self, Error> {
        let name = component.name;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context(|| "make an eventfd".to_owned())?;
        let shared = Arc::new(Shared {
            plan: Mutex::new(Plan {
                component,
                credentials,
                restart: false,
                stop: false,
            }),
            wake,
        });
        let log = paths.logs().join(format!("{name}.log"));
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("{name}-keeper"))
            .spawn(move || keep(name, &for_thread, &board, &log))
            .context(|| format!("start a thread for {name}"))?;
        Ok(Self {
            name,
            shared,
            thread: Some(thread),
        })
    }

    /// Which component.
    pub fn name(&self) -> Name {
        self.name
    }

    /// Whether the component would be started differently now.
    pub fn differs(&self, component: &Component) -> bool {
        self.shared.plan(|plan| plan.component != *component)
    }

    /// Changes what the component is started with next time, and restarts it if asked.
    pub fn replace(
        &self,
        component: Component,
        credentials: Credentials,
        restart: bool,
    ) -> Result<(), Error> {
        self.shared.plan(|plan| {
            plan.component = component;
            plan.credentials = credentials;
            plan.restart |= restart;
        });
        if restart { self.shared.wake() } else { Ok(()) }
    }

    /// Ends the component and waits for it.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.shared.plan(|plan| plan.stop = true);
        self.shared.wake()?;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            info!("the thread of {} panicked", self.name);
        }
        Ok(())
    }
}

/// Why a process ended.
enum End {
    /// By itself.
    Itself(String),
    /// It didn't come up or hung, and was ended.
    Sick(String),
    /// It was asked to, to be started again.
    Restart,
    /// It was asked to, for good.
    Stop,
}

fn keep(name: Name, shared: &Shared, board: &Board, log: &std::path::Path) {
    let tail = Tail::default();
    let mut pause = PAUSE.0;
    loop {
        let need = shared.plan(|plan| plan.component.need);
        let go_on = board.wait(|facts| match need {
            Need::Nothing => true,
            Need::Api => facts.api_serves(),
            Need::Ready => facts.api_ready,
            Need::Roles => facts.roles_in_force,
        });
        if !go_on || shared.plan(|plan| plan.stop) {
            break;
        }
        let started = Instant::now();
        let reason = match run(name, shared, board, log, &tail) {
            Ok(End::Stop) => break,
            Ok(End::Restart) => {
                pause = PAUSE.0;
                board.set(name, |line| line.state = State::Waiting);
                continue;
            }
            Ok(End::Itself(status)) => status,
            Ok(End::Sick(reason)) => reason,
            Err(error) => error.to_string(),
        };
        if started.elapsed() >= HEALTHY {
            pause = PAUSE.0;
        }
        info!(
            "{name} ended ({reason}); next start in {} ms",
            pause.as_millis()
        );
        board.set(name, |line| {
            line.state = State::Waiting;
            line.pid = None;
            line.restarts += 1;
            line.last_exit = Some(reason);
        });
        if !board.pause(pause) {
            break;
        }
        pause = (pause * 2).min(PAUSE.1);
    }
    board.set(name, |line| {
        line.state = State::Stopped;
        line.pid = None;
    });
}

/// Runs the component once, from start to end.
fn run(
    name: Name,
    shared: &Shared,
    board: &Board,
    log: &std::path::Path,
    tail: &Tail,
) -> Result<End, Error> {
    let (component, credentials) = shared.plan(|plan| {
        plan.restart = false;
        (plan.component.clone(), plan.credentials.clone())
    });
    if let crate::component::Probe::Socket(path) = &component.probe {
        // Left by a predecessor that was killed; a connection to it would prove nothing.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    let (mut process, output) = Process::start(&component)?;
    output::capture(output, log.to_owned(), tail.clone())
        .context(|| format!("start a thread for {name}'s log"))?;
    board.set(name, |line| {
        line.state = State::Starting;
        line.pid = Some(process.pid());
    });
    let started = Instant::now();
    let mut prober = Prober::new(&component.probe, &credentials);
    let mut up = false;
    let mut failures = 0;
    loop {
        let interval = if up { LIVE_INTERVAL } else { READY_INTERVAL };
        let (ended, woken) = wait(&process, shared, interval)?;
        if ended {
            let status = process.wait()?;
            // Who was killed didn't get to say why; other ends are explained by their last words.
            let said = status.code().and_then(|_| tail.reason());
            return Ok(End::Itself(match said {
                Some(line) => format!("{}: {line}", describe(status)),
                None => describe(status),
            }));
        }
        if woken {
            shared.rest();
            let (stop, restart) = shared.plan(|plan| (plan.stop, plan.restart));
            if stop || restart {
                board.set(name, |line| line.state = State::Stopping);
                end(name, &mut process, component.stop_timeout)?;
                return Ok(if stop { End::Stop } else { End::Restart });
            }
            continue;
        }
        if !up {
            match prober.ready() {
                Ok(()) => {
                    up = true;
                    info!(
                        "{name} is up after {:.1} s",
                        started.elapsed().as_secs_f64()
                    );
                    board.set(name, |line| line.state = State::Up);
                }
                Err(reason) if started.elapsed() > START_TIMEOUT => {
                    end(name, &mut process, component.stop_timeout)?;
                    let waited = START_TIMEOUT.as_secs();
                    return Ok(End::Sick(format!("not up within {waited} s: {reason}")));
                }
                Err(_) => {}
            }
            continue;
        }
        match prober.live() {
            Ok(()) => failures = 0,
            Err(reason) => {
                failures += 1;
                // Its certificate, or ours, may have been renewed.
                let credentials = shared.plan(|plan| plan.credentials.clone());
                prober = Prober::new(&component.probe, &credentials);
                if failures == LIVE_FAILURES {
                    end(name, &mut process, component.stop_timeout)?;
                    return Ok(End::Sick(format!("{failures} failed checks: {reason}")));
                }
            }
        }
    }
}

/// Waits for the process's end, a word from outside, or the time: `(ended, woken)`.
fn wait(process: &Process, shared: &Shared, time: Duration) -> Result<(bool, bool), Error> {
    let mut fds = [
        PollFd::from_borrowed_fd(process.fd(), PollFlags::IN),
        PollFd::new(&shared.wake, PollFlags::IN),
    ];
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error).context(|| "wait for a component".to_owned()),
    }
    let [process, wake] = fds;
    Ok((!process.revents().is_empty(), !wake.revents().is_empty()))
}

/// Ends the process: SIGTERM, and SIGKILL when the time is over.
fn end(name: Name, process: &mut Process, time: Duration) -> Result<(), Error> {
    process.signal(Signal::TERM)?;
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(process.fd(), PollFlags::IN)];
        let time = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&time)) {
            Ok(0) => {
                info!("{name} didn't end when asked, and is killed");
                process.signal(Signal::KILL)?;
                break;
            }
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context(|| format!("wait for {name}")),
        }
    }
    process.wait().map(drop)
}
