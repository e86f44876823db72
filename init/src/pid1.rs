//! PID 1 of the root: the main loop. It never waits for anything but poll(2).
//!
//! The phases run in a thread beside it, so that from the first moment on orphans are
//! reaped, the watchdog is fed and signals are heard.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use slipway_images::info::{IMAGE_INFO_PATH, ImageInfo};
use slipway_images::node::{self, Boot};
use slipway_images::service::{Service, WIFI, start_order};

use crate::mailbox::{Event, Inbox, Mailbox, mailbox};
use crate::net::{News, TimeServers};
use crate::phase::{self, Context, Deadline, End, Failure};
use crate::power::PowerButtons;
use crate::reaper::Reaper;
use crate::report::Reporter;
use crate::root::{PHASES, Root};
use crate::shutdown::{self, Kind};
use crate::slots::Keeper;
use crate::status::StatusPage;
use crate::supervisor::{Paths, Supervisor};
use crate::watchdog::Watchdog;
use crate::{clock, files, mounts, say, seed, ssh};

/// There while the machine goes down; services look for it when they are told to stop.
const SHUTDOWN_MARK: &str = "/run/slipway/shutdown";

const SERVICES: &str = "/usr/lib/slipway/services";
/// The service that joins wireless networks; how they fare is told as its status.
const WIFI_SERVICE: &str = "wifi";
/// How long a failure is shown before the machine reboots because of it.
const REBOOT_PAUSE: Duration = Duration::from_secs(30);
/// Longest time for all services to stop.
const STOP_LIMIT: Duration = Duration::from_secs(180);
/// For the slots when a phase hangs, perhaps because of the disk that they are on.
const HUNG_PATIENCE: Duration = Duration::from_secs(5);
const SAVE_CLOCK_EVERY: Duration = Duration::from_secs(3600);

/// Signals and what they ask for: those of `reboot`, `poweroff` and `halt`, which are
/// busybox's too. SIGINT is Ctrl-Alt-Del.
pub const SIGNALS: [(Signal, Kind); 4] = [
    (Signal::SIGTERM, Kind::Reboot),
    (Signal::SIGINT, Kind::Reboot),
    (Signal::SIGUSR2, Kind::PowerOff),
    (Signal::SIGUSR1, Kind::Halt),
];

/// Says that the seed in force has changed in what a running node follows.
pub const SEED_CHANGED: Signal = Signal::SIGHUP;

struct Loop {
    mailbox: Mailbox,
    reaper: Reaper,
    time_servers: TimeServers,
    deadline: Deadline,
    supervisor: Option<Supervisor>,
    conditions: Vec<String>,
    addresses: Vec<(String, std::net::IpAddr)>,
    watchdog: Option<Watchdog>,
    buttons: PowerButtons,
    ending: Option<(Kind, Instant)>,
    /// Why the machine ends, if something has failed.
    failure: Option<String>,
    slots: Keeper,
    reboot_at: Option<Instant>,
    clock_saved: Instant,
    booted: bool,
    phases: Vec<node::Phase>,
    degraded: Vec<String>,
    reporter: Reporter,
    page: StatusPage,
}

fn signal_mask() -> SigSet {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(SEED_CHANGED);
    for (signal, _) in SIGNALS {
        mask.add(signal);
    }
    mask
}

/// Blocks the signals that the main loop reads. To be called before any thread is made, so
/// that all inherit it: a signal blocked in one thread and not in another is fatal even to
/// PID 1 (kernel/signal.c, `complete_signal`).
///
/// # Errors
/// Those of sigprocmask(2).
pub fn block_signals() -> Result<(), Failure> {
    signal_mask().thread_block().context("blocking signals")
}

/// Runs the root until the machine ends.
///
/// # Errors
/// When not even the main loop can be set up.
pub fn main(deadline: Deadline) -> Result<std::convert::Infallible, Failure> {
    let mask = signal_mask();
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&mask, flags).context("signalfd")?;
    let (mailbox, inbox) = mailbox().context("eventfd")?;
    let reaper = Reaper::default();

    let slots = Keeper::default();
    let mut root = Root::new(mailbox.clone(), reaper.clone(), slots.clone());
    let time_servers = root.time_servers();
    let (report, thread_deadline) = (mailbox.clone(), deadline.clone());
    std::thread::Builder::new()
        .name("boot".into())
        .spawn(move || {
            let end = phase::run(PHASES, &mut root, &thread_deadline, |phase| {
                report.send(Event::Phase(phase));
            });
            report.send(Event::Booted(end));
        })
        .context("starting the boot thread")?;

    let mut main = Loop {
        mailbox,
        reaper,
        time_servers,
        deadline,
        supervisor: None,
        conditions: Vec::new(),
        addresses: Vec::new(),
        watchdog: None,
        buttons: PowerButtons::default(),
        ending: None,
        failure: None,
        slots,
        reboot_at: None,
        clock_saved: Instant::now(),
        booted: false,
        phases: Vec::new(),
        degraded: Vec::new(),
        reporter: Reporter::start("/".into()),
        page: StatusPage::start("/".into()),
    };
    // Ctrl-Alt-Del becomes SIGINT to us.
    if let Err(error) = set_cad_enabled(false) {
        say!("Ctrl-Alt-Del: {error}");
    }
    loop {
        main.wait(&signals, &inbox);
        main.signals(&signals);
        for event in inbox.take() {
            main.event(event);
        }
        main.tick();
    }
}

impl Loop {
    fn wait(&mut self, signals: &SignalFd, inbox: &Inbox) {
        let now = Instant::now();
        // The watchdog wants food, the deadlines of phases a look.
        let mut until = now
            + if self.booted {
                Duration::from_secs(10)
            } else {
                Duration::from_secs(1)
            };
        let due = self.supervisor.as_mut().and_then(|s| s.tick(now));
        let ending = self.ending.map(|(_, at)| at);
        let hungry = self.watchdog.as_ref().map(Watchdog::due);
        for at in [due, ending, self.reboot_at, hungry].into_iter().flatten() {
            until = until.min(at);
        }
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(inbox.fd(), PollFlags::POLLIN),
        ];
        if let Some(supervisor) = &self.supervisor {
            for unit in supervisor.units() {
                fds.push(PollFd::new(unit.socket().as_fd(), PollFlags::POLLIN));
            }
        }
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        // EINTR ends the waiting like anything else.
        crate::ignore(poll(&mut fds, timeout));
    }

    fn signals(&mut self, signals: &SignalFd) {
        while let Ok(Some(info)) = signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            let asked = SIGNALS.iter().find(|(s, _)| *s as i32 == signal);
            if let Some((signal, kind)) = asked {
                self.end(*kind, signal.as_str());
            }
            if signal == SEED_CHANGED as i32 {
                self.follow_seed();
            }
        }
        let now = Instant::now();
        for (pid, status) in self.reaper.reap() {
            if let Some(supervisor) = &mut self.supervisor {
                supervisor.exited(pid, status, now);
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Net(News::Address {
                interface,
                address,
                prefix,
            }) => {
                let known = (interface, address);
                if !self.addresses.contains(&known) {
                    say!("address {address}/{prefix} on {}", known.0);
                    self.addresses.push(known);
                }
                self.condition("network");
            }
            Event::Net(News::AddressGone { interface, address }) => {
                let gone = (interface, address);
                if self.addresses.contains(&gone) {
                    say!("address {address} on {} is gone", gone.0);
                    self.addresses.retain(|a| *a != gone);
                }
                // Services that wait for a network are not started by one that was before them.
                if self.supervisor.is_none() && self.addresses.is_empty() {
                    self.conditions.retain(|c| c != "network");
                }
            }
            Event::TimeSet => {
                self.condition("time");
                self.save_clock();
            }
            Event::PowerButton => self.end(Kind::PowerOff, "the power button"),
            Event::Device(subsystem) if subsystem == "input" => {
                let mailbox = self.mailbox.clone();
                self.buttons.scan(&move || mailbox.send(Event::PowerButton));
            }
            Event::Device(_) => {
                if self.watchdog.is_none() {
                    self.watchdog = Watchdog::arm();
                }
            }
            Event::Condition(name) => self.condition(name),
            Event::Net(News::WifiWanted(true)) => self.condition(WIFI),
            Event::Net(News::WifiWanted(false)) => self.condition_gone(WIFI),
            Event::Net(News::WifiStatus(status)) => {
                if let Some(supervisor) = &mut self.supervisor {
                    supervisor.set_status(WIFI_SERVICE, status);
                }
            }
            Event::ConditionGone(name) => self.condition_gone(name),
            Event::StatusPage(wanted) => self.page.wanted(wanted),
            Event::StartServices { data } => self.start_services(data),
            Event::Phase(phase) => match self.phases.iter_mut().find(|p| p.name == phase.name) {
                Some(known) => *known = phase,
                None => self.phases.push(phase),
            },
            Event::TrialFailed(why) => {
                say!("this version has failed its trial: {why}");
                self.failure = Some(why);
                self.end(Kind::Reboot, "a failed trial");
            }
            Event::Booted(End::Done { failed }) => {
                self.booted = true;
                self.degraded = failed.iter().map(|name| (*name).to_owned()).collect();
                if !failed.is_empty() {
                    say!("degraded: {} failed", failed.join(", "));
                }
            }
            Event::Booted(End::Reboot { phase }) => {
                self.booted = true;
                say!("{phase} failed: rebooting in {} s", REBOOT_PAUSE.as_secs());
                self.failure = Some(format!("{phase} failed"));
                self.reboot_at = Some(Instant::now() + REBOOT_PAUSE);
            }
        }
    }

    fn condition(&mut self, name: &str) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.set_condition(name);
        }
        if !self.conditions.iter().any(|c| c == name) {
            self.conditions.push(name.to_owned());
        }
    }

    fn condition_gone(&mut self, name: &str) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.withdraw_condition(name);
        }
        self.conditions.retain(|c| c != name);
    }

    /// Takes its time servers, and opens or closes ssh. Not here in the main loop: a key may
    /// have to be made.
    fn follow_seed(&self) {
        if self.ending.is_some() {
            return;
        }
        let (mailbox, reaper) = (self.mailbox.clone(), self.reaper.clone());
        let time_servers = self.time_servers.clone();
        let follow = move || match seed::in_force(Path::new("/")).and_then(|seed| {
            time_servers.choose(&seed.ntp);
            ssh::open(&seed, &reaper, &mailbox)
        }) {
            Ok(note) => say!("ssh: {note}"),
            Err(failure) => say!("ssh: {failure}"),
        };
        let thread = std::thread::Builder::new()
            .name("ssh".into())
            .stack_size(1 << 20)
            .spawn(follow);
        if let Err(error) = thread {
            say!("ssh: following the seed: {error}");
        }
    }

    fn start_services(&mut self, data: bool) {
        let paths = Paths {
            logs: "/var/log/slipway".into(),
            notify: "/run/slipway/notify".into(),
            cgroup: Some(mounts::SYSTEM_GROUP.into()),
        };
        let supervisor = load_services(Path::new(SERVICES), data)
            .and_then(|s| Supervisor::new(s, &paths, self.reaper.clone()).map_err(Failure::from));
        match supervisor {
            Ok(mut supervisor) => {
                for name in &self.conditions {
                    supervisor.set_condition(name);
                }
                self.supervisor = Some(supervisor);
            }
            Err(failure) => say!("services: {failure}"),
        }
    }

    fn save_clock(&mut self) {
        self.clock_saved = Instant::now();
        if self.supervisor.is_some()
            && let Err(failure) = clock::save(Path::new(clock::CLOCK_FILE))
        {
            say!("{failure}");
        }
    }

    fn end(&mut self, kind: Kind, why: &str) {
        if self.ending.is_some() {
            return;
        }
        say!("{} ({why}): stopping services", kind.verb());
        // Tells clusterd to end the pods as well, in order: it isn't only itself that stops.
        if let Err(e) = fs::write(SHUTDOWN_MARK, "") {
            say!("shutdown: writing {SHUTDOWN_MARK}: {e}; pods are killed without a warning");
        }
        self.ending = Some((kind, Instant::now() + STOP_LIMIT));
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.stop_all();
        }
    }

    /// Tells the node API how things are.
    fn report(&mut self) {
        // The first phase makes the place for it.
        if self.phases.is_empty() {
            return;
        }
        let units = self.supervisor.iter().flat_map(Supervisor::units);
        let address = |(interface, address): &(String, std::net::IpAddr)| node::Address {
            interface: interface.clone(),
            address: *address,
        };
        let boot = Boot {
            booted: self.booted,
            phases: self.phases.clone(),
            degraded: self.degraded.clone(),
            services: units.map(|unit| self.reporter.service(unit)).collect(),
            conditions: self.conditions.clone(),
            addresses: self.addresses.iter().map(address).collect(),
            ending: self.ending.map(|(kind, _)| kind.verb().to_owned()),
        };
        self.page.tell(&boot);
        self.reporter.tell(boot);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.tick(now);
        }
        if let Some(phase) = self.deadline.passed() {
            say!("{phase} has hung past its deadline: rebooting");
            let why = format!("{phase} has hung past its deadline");
            self.slots.leave_within(why, HUNG_PATIENCE);
            shutdown::at_once(Kind::Reboot);
        }
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.notified(now);
            supervisor.show_status();
            supervisor.tick(now);
        }
        self.report();
        if now.duration_since(self.clock_saved) >= SAVE_CLOCK_EVERY {
            self.save_clock();
        }
        if self.reboot_at.is_some_and(|at| now >= at) {
            self.reboot_at = None;
            self.end(Kind::Reboot, "a failed phase");
        }
        if self.slots.is_overdue() && self.ending.is_none() {
            self.failure = Some("its gate has hung".into());
            self.end(Kind::Reboot, "a trial that nobody settled");
        }
        if let Some((kind, until)) = self.ending {
            let stopped = self.supervisor.as_ref().is_none_or(Supervisor::is_stopped);
            if stopped || now >= until {
                // Closes the pipes and with them the log files.
                self.supervisor = None;
                let leave = || self.slots.leave(self.failure.as_deref());
                shutdown::finish(kind, &self.reaper, self.watchdog.take(), leave);
            }
        }
    }
}

/// Reads all services; without a data partition those that need none. A broken file does not
/// keep the others from running.
fn load_services(directory: &Path, data: bool) -> Result<Vec<Service>, Failure> {
    let mut services = Vec::new();
    for path in files::sorted_files(directory, "toml") {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).context(path.display())?;
        match Service::parse(&name, &text) {
            Ok(service) if data || !service.needs_data => services.push(service),
            Ok(_) => {}
            Err(error) => say!("{error}"),
        }
    }
    Ok(start_order(services)?)
}

/// What is shown first.
pub fn banner() {
    match ImageInfo::read(Path::new(IMAGE_INFO_PATH)) {
        Ok(i) => say!(
            "Slipway {} for {}, Kubernetes {}",
            i.version,
            i.board,
            i.kubernetes
        ),
        Err(error) => say!("{error}"),
    }
}
