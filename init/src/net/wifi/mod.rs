//! Wireless networks: wpa_supplicant joins them, this tells it which.
//!
//! wpa_supplicant runs as a service of the node (`distro/services/wifi.toml`) from the first
//! wireless interface of the seed on. A thread here hands it the interfaces by its control
//! socket, and again whenever it has been started anew, and puts into words how they fare.
//! That a network is joined DHCP learns as it learns of a cable: the link has a carrier.
//!
//! | path | mode | what |
//! |---|---|---|
//! | `/run/slipway/wifi` | 0700 | the directory |
//! | `NAME.conf` | 0600 | an interface's networks, with passphrases |
//! | `control`, `init` | | sockets of wpa_supplicant and of PID 1 |

pub mod config;
pub mod control;
mod standing;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slipway_images::seed::network::AccessPoint;

use super::{News, Tell, tell};
use crate::phase::{Context, Failure};
use crate::{files, say};
use control::Control;
use standing::Standing;

/// Where the files and sockets are; `distro/services/wifi.toml` names it, too.
pub const DIRECTORY: &str = "/run/slipway/wifi";
/// What the service runs.
pub const PROGRAM: &str = "/usr/sbin/wpa_supplicant";
const CLASS: &str = "/sys/class/net";
/// How long wpa_supplicant may be silent before it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(5);
/// How often it is looked for while it isn't.
const LOOK: Duration = Duration::from_millis(250);

/// The wireless interfaces of the seed.
pub struct Wifi {
    directory: PathBuf,
    driver: &'static str,
    wanted: Arc<Mutex<Wanted>>,
    tell: Tell,
    started: bool,
}

type Wanted = BTreeMap<String, Joining>;

/// What an interface is to join.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Joining {
    /// The networks' names, by their numbers.
    ssids: Vec<String>,
    /// Its file's text, so that a change of a passphrase is one.
    file: slipway_images::seed::Secret,
}

fn lock(wanted: &Mutex<Wanted>) -> MutexGuard<'_, Wanted> {
    wanted.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wifi {
    /// None yet. The service and what becomes of the interfaces are told by `tell`.
    pub fn new(directory: PathBuf, tell: Tell) -> Self {
        Self {
            directory,
            driver: "nl80211",
            wanted: Arc::default(),
            tell,
            started: false,
        }
    }

    /// Has an interface join one of these networks, from now on.
    ///
    /// # Errors
    /// Its file can't be written, or there can be no thread.
    pub fn join(
        &mut self,
        name: &str,
        access_points: &[AccessPoint],
        country: Option<&str>,
    ) -> Result<(), Failure> {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.directory);
        made.context(self.directory.display())?;
        let joining = Joining {
            ssids: access_points.iter().map(|one| one.ssid.clone()).collect(),
            file: config::render(access_points, country),
        };
        let path = file(&self.directory, name);
        files::write_atomically(&path, joining.file.reveal().as_bytes(), 0o600)
            .context(path.display())?;
        self.start()?;
        lock(&self.wanted).insert(name.to_owned(), joining);
        tell(&self.tell, News::WifiWanted(true));
        Control::wake(&self.directory);
        Ok(())
    }

    /// Takes an interface back, if it has one of this name.
    pub fn leave(&mut self, name: &str) {
        let rest = {
            let mut wanted = lock(&self.wanted);
            if wanted.remove(name).is_none() {
                return;
            }
            wanted.len()
        };
        if let Err(failure) = files::remove(&file(&self.directory, name)) {
            say!("{failure}");
        }
        if rest == 0 {
            tell(&self.tell, News::WifiWanted(false));
        }
        Control::wake(&self.directory);
    }

    /// Starts the thread, once.
    fn start(&mut self) -> Result<(), Failure> {
        if self.started {
            return Ok(());
        }
        let mut thread = Thread {
            control: Control::open(&self.directory)?,
            directory: self.directory.clone(),
            driver: self.driver,
            wanted: Arc::clone(&self.wanted),
            tell: Arc::clone(&self.tell),
            attached: false,
            standings: BTreeMap::new(),
            said: String::new(),
        };
        std::thread::Builder::new()
            .name("wifi".into())
            .stack_size(256 << 10)
            .spawn(move || thread.run())
            .map_err(Failure::from)?;
        self.started = true;
        Ok(())
    }
}

/// Whether a device is a radio. cfg80211 gives it the type before it is registered; the link
/// `phy80211` comes only after its appearance was told.
#[must_use]
pub fn is_wireless(name: &str) -> bool {
    let event = fs::read_to_string(Path::new(CLASS).join(name).join("uevent"));
    event.is_ok_and(|event| event.lines().any(|line| line == "DEVTYPE=wlan"))
}

/// The radio's own directory in sysfs, which may not be linked yet ([`is_wireless`]).
fn phy(name: &str) -> PathBuf {
    let device = Path::new(CLASS).join(name);
    let linked = device.join("phy80211");
    if linked.exists() {
        return linked;
    }
    let below = device.join("device/ieee80211");
    let first = files::names(&below).into_iter().next();
    first.map_or(linked, |name| below.join(name))
}

/// Switches a radio on that software has switched off (rfkill).
///
/// # Errors
/// A switch of the machine's has it off, or the kernel refuses.
pub fn unblock(name: &str) -> Result<(), Failure> {
    let phy = phy(name);
    for switch in files::names(&phy) {
        if !switch.starts_with("rfkill") {
            continue;
        }
        let switch = phy.join(switch);
        files::write_existing(switch.join("soft"), "0").context("rfkill")?;
        if files::read_trimmed(switch.join("hard")).is_ok_and(|hard| hard == "1") {
            let why = "the radio is switched off by a switch or key of the machine (rfkill)";
            return Err(Failure(why.into()));
        }
    }
    Ok(())
}

fn file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.conf"))
}

struct Thread {
    control: Control,
    directory: PathBuf,
    driver: &'static str,
    wanted: Arc<Mutex<Wanted>>,
    tell: Tell,
    /// Whether wpa_supplicant tells us events.
    attached: bool,
    /// The interfaces that it has been given, how they are wanted and stand.
    standings: BTreeMap<String, (Joining, Standing)>,
    /// What was told last.
    said: String,
}

impl Thread {
    fn run(&mut self) {
        loop {
            if let Err(error) = self.turn() {
                // It has ended, which the supervisor says, or hangs.
                if self.attached {
                    say!("wifi: wpa_supplicant doesn't answer: {error}");
                }
                self.attached = false;
            }
            self.tell();
        }
    }

    fn turn(&mut self) -> std::io::Result<()> {
        let wanted = lock(&self.wanted).clone();
        if !self.attached && !wanted.is_empty() && self.attach().unwrap_or(false) {
            self.attached = true;
            self.standings.clear();
        }
        if self.attached {
            self.reconcile(&wanted)?;
        } else {
            // Whoever knew them has gone.
            self.standings.retain(|name, _| wanted.contains_key(name));
        }
        self.tell();
        let patience = match (self.attached, wanted.is_empty()) {
            (_, true) => Duration::from_secs(3600),
            (true, false) => SILENCE,
            (false, false) => LOOK,
        };
        match self.control.next(patience)? {
            Some((name, event)) => {
                if let Some((_, standing)) = self.standings.get_mut(&name) {
                    standing.follow(event);
                }
            }
            None if self.attached && !wanted.is_empty() => self.attached = self.is_known()?,
            None => {}
        }
        Ok(())
    }

    /// Asks for events; once, or each would come several times.
    fn attach(&mut self) -> std::io::Result<bool> {
        self.control.command("DETACH")?;
        self.control.command("ATTACH")
    }

    /// Whether wpa_supplicant has what it was given: one that was started anew has nothing.
    fn is_known(&mut self) -> std::io::Result<bool> {
        let taken = self.standings.iter();
        let taken = taken.filter(|(_, (_, standing))| *standing != Standing::Refused);
        let taken: Vec<String> = taken.map(|(name, _)| name.clone()).collect();
        for name in &taken {
            if !self.control.command(&format!("IFNAME={name} PING"))? {
                return Ok(false);
            }
        }
        Ok(!taken.is_empty())
    }

    /// Takes back and hands over until wpa_supplicant has what is wanted.
    fn reconcile(&mut self, wanted: &Wanted) -> std::io::Result<()> {
        let known: Vec<String> = self.standings.keys().cloned().collect();
        for name in known {
            let as_wanted =
                (self.standings.get(&name)).map(|(joining, _)| joining) == wanted.get(&name);
            if !as_wanted {
                self.standings.remove(&name);
                self.control.command(&format!("INTERFACE_REMOVE {name}"))?;
            }
        }
        for (name, joining) in wanted {
            let refused = |known: &(Joining, Standing)| known.1 == Standing::Refused;
            if self
                .standings
                .get(name)
                .is_some_and(|known| !refused(known))
            {
                continue;
            }
            // One that it has already, of which we don't know, would be refused.
            self.control.command(&format!("INTERFACE_REMOVE {name}"))?;
            let path = file(&self.directory, name);
            let (path, driver) = (path.display(), self.driver);
            let taken = self
                .control
                .command(&format!("INTERFACE_ADD {name}\t{path}\t{driver}"))?;
            let standing = match taken {
                true => Standing::Searching,
                false => Standing::Refused,
            };
            self.standings
                .insert(name.clone(), (joining.clone(), standing));
        }
        Ok(())
    }

    /// Tells how the interfaces fare, when that is new.
    fn tell(&mut self) {
        let all = self.standings.iter();
        let all =
            all.map(|(name, (joining, standing))| (name.as_str(), &*joining.ssids, *standing));
        let status = standing::in_words(all);
        if status != self.said {
            tell(&self.tell, News::WifiStatus(status.clone()));
            self.said = status;
        }
    }
}

/// Whether this image can join wireless networks.
#[must_use]
pub fn is_there() -> bool {
    fs::exists(PROGRAM).unwrap_or(false)
}

#[cfg(test)]
mod tests;
