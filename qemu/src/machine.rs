//! The description of a virtual machine: everything that QEMU's command line
//! says, in types that are valid by construction.

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::accel::Accelerator;
use crate::error::{Error, Result};
use crate::state::VmName;

/// A processor architecture that QEMU emulates and boards of ours have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86: machine type q35.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM: machine type virt.
    Aarch64,
    /// 32-bit ARMv7: machine type virt below 4 GiB.
    Armv7,
}

impl Arch {
    /// QEMU's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Armv7 => "arm",
        }
    }

    /// The emulator's program name.
    pub fn program(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
            Self::Armv7 => "qemu-system-arm",
        }
    }

    /// The Debian packages with the emulator, `qemu-img` and the firmware.
    pub fn packages(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86 qemu-utils ovmf",
            Self::Aarch64 => "qemu-system-arm qemu-utils qemu-efi-aarch64",
            Self::Armv7 => "qemu-system-arm qemu-utils u-boot-qemu",
        }
    }

    /// Whether this host has the same architecture, so that KVM is thinkable.
    pub fn is_hosts(self) -> bool {
        self.name() == std::env::consts::ARCH
    }
}

/// What the machine starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// UEFI firmware from flash; it finds a loader on the first disk.
    Firmware {
        /// The code, read-only, shared by all machines.
        code: PathBuf,
        /// The variables: a copy that belongs to this machine.
        vars: PathBuf,
        /// Whether the code enforces Secure Boot, for which it keeps the variables from
        /// everything that doesn't run in system management mode.
        #[serde(default)]
        secure: bool,
    },
    /// U-Boot, in place of firmware; it finds its script on the first disk.
    UBoot {
        /// The program, read-only, shared by all machines.
        code: PathBuf,
    },
    /// A Raspberry Pi 4's U-Boot, on QEMU's machine for it ([`raspi`](crate::raspi)).
    RaspberryPi4 {
        /// The image's U-Boot.
        u_boot: PathBuf,
        /// The device tree, changed for QEMU.
        device_tree: PathBuf,
    },
    /// QEMU loads the kernel itself: quicker, for tests of `init`.
    Kernel {
        /// A bzImage or Image.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// The kernel's command line.
        cmdline: String,
    },
    /// QEMU's built-in firmware (SeaBIOS on x86), for boot sectors.
    Builtin,
}

/// How a disk's image is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Byte for byte.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// What becomes of a guest's flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Honoured: what the guest has flushed survives the death of QEMU and of
    /// the host. The only right choice where a test cuts the power.
    Writeback,
    /// Ignored: quickest. Killing QEMU loses qcow2 metadata that it still held
    /// in memory; for throw-away disks only.
    Unsafe,
}

/// A disk, in the order of attachment (`vda`, `vdb`, ...).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The image file.
    pub path: PathBuf,
    /// Its encoding, told and never guessed: a guest could otherwise write a
    /// qcow2 header onto its raw disk and read files of the host.
    pub format: DiskFormat,
    /// What a flush does.
    pub cache: Cache,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// The transport of a forwarded port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to a port of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The transport.
    pub protocol: Protocol,
    /// The host's address to listen on; loopback unless asked otherwise.
    pub address: Ipv4Addr,
    /// The host's port; 0 stands for "any free one" and is replaced before QEMU
    /// starts, see [`crate::ports::settle`].
    pub host: u16,
    /// The guest's port.
    pub guest: NonZeroU16,
}

impl Forward {
    /// A TCP forward from loopback.
    pub fn tcp(host: u16, guest: NonZeroU16) -> Self {
        Self {
            protocol: Protocol::Tcp,
            address: Ipv4Addr::LOCALHOST,
            host,
            guest,
        }
    }
}

/// A place on a [`Lan`], from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LanPort(u8);

impl LanPort {
    /// All that a network has.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=3).map(Self)
    }

    /// The address of who is there.
    pub fn address(self) -> Ipv4Addr {
        let [a, b, c, d] = Lan::HUB.octets();
        Ipv4Addr::new(a, b, c, d + self.0)
    }
}

impl fmt::Display for LanPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A second network, of several machines: one has it, others join. They are connected by datagram
/// sockets in the first one's directory, which is its owner's alone. It is apart from the user
/// network because QEMU answers there for every address in the world, whoever has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lan {
    /// This machine has it.
    Hub,
    /// This machine is on another's.
    Member {
        /// The hub's directory, relative to this machine's.
        hub: PathBuf,
        /// Where.
        port: LanPort,
    },
}

impl Lan {
    /// The addresses on it.
    pub const NETWORK: &str = "10.99.0.0/24";
    /// The address of the machine that has it.
    pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    /// The address of a machine at this place.
    pub fn address(&self) -> Ipv4Addr {
        match self {
            Self::Hub => Self::HUB,
            Self::Member { port, .. } => port.address(),
        }
    }
}

/// `[ADDRESS:]HOST:GUEST[/udp]`, as in `8080:80` or `0.0.0.0:5353:53/udp`.
impl FromStr for Forward {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::Invalid(format!(
                "port forward `{text}`: {why}; the form is [ADDRESS:]HOST:GUEST[/udp], as in 8080:80"
            ))
        };
        let (ports, protocol) = match text.rsplit_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(wrong(&format!("unknown protocol `{other}`"))),
        };
        let parts: Vec<&str> = ports.split(':').collect();
        let (address, host, guest) = match parts[..] {
            [host, guest] => (Ipv4Addr::LOCALHOST, host, guest),
            [address, host, guest] => (
                address
                    .parse()
                    .map_err(|_| wrong(&format!("`{address}` is not an IPv4 address")))?,
                host,
                guest,
            ),
            _ => return Err(wrong("it needs a host port and a guest port")),
        };
        let number = |port: &str| {
            port.parse::<u16>()
                .map_err(|_| wrong(&format!("`{port}` is not a port (1 to 65535)")))
        };
        Ok(Self {
            protocol,
            address,
            host: number(host)?,
            guest: NonZeroU16::new(number(guest)?)
                .ok_or_else(|| wrong("the guest's port can't be 0"))?,
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}->{}", self.address, self.host, self.guest)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

/// A file that the guest's firmware and kernel can read by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfg {
    /// `opt/...`, at most 55 bytes (QEMU's `docs/specs/fw_cfg`).
    pub name: String,
    /// The host's file.
    pub path: PathBuf,
}

/// What happens when the guest resets itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnReboot {
    /// It boots again, as hardware does.
    Restart,
    /// QEMU ends. With `panic=-1` on the kernel's command line a panic ends a
    /// test at once.
    Exit,
}

/// Memory in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mebibytes(pub u32);

impl Mebibytes {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0) << 20
    }
}

/// `2048`, `2048M`, `2G`: MiB unless a unit says otherwise.
impl FromStr for Mebibytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::Invalid(format!(
                "`{text}` is not a memory size; write it as 2048, 2048M or 2G"
            ))
        };
        let (digits, unit) = split_unit(text);
        let factor = match unit {
            "" | "m" | "mi" | "mib" | "mb" => 1,
            "g" | "gi" | "gib" | "gb" => 1024,
            _ => return Err(wrong()),
        };
        let value: u32 = digits.parse().map_err(|_| wrong())?;
        value
            .checked_mul(factor)
            .filter(|m| *m > 0)
            .map(Self)
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

/// A disk's size in bytes, a multiple of 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiskSize(u64);

impl DiskSize {
    /// `gib` GiB.
    pub const fn gib(gib: u32) -> Self {
        Self((gib as u64) << 30)
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// `16G`, `20480M`, `1T`: GiB unless a unit says otherwise.
impl FromStr for DiskSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::Invalid(format!(
                "`{text}` is not a disk size; write it as 16G, 20480M or 1T"
            ))
        };
        let (digits, unit) = split_unit(text);
        let shift = match unit {
            "m" | "mi" | "mib" | "mb" => 20,
            "" | "g" | "gi" | "gib" | "gb" => 30,
            "t" | "ti" | "tib" | "tb" => 40,
            _ => return Err(wrong()),
        };
        let value: u64 = digits.parse().map_err(|_| wrong())?;
        value
            .checked_mul(1 << shift)
            .filter(|b| *b > 0 && *b <= 1 << 46)
            .map(Self)
            .ok_or_else(wrong)
    }
}

/// The digits, and the unit in lower case (as a static name, "?" if unknown).
fn split_unit(text: &str) -> (&str, &'static str) {
    const UNITS: [&str; 12] = [
        "mib", "gib", "tib", "mi", "gi", "ti", "mb", "gb", "tb", "m", "g", "t",
    ];
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim();
    if unit.is_empty() {
        return (digits, "");
    }
    let unit = UNITS
        .into_iter()
        .find(|u| u.eq_ignore_ascii_case(unit))
        .unwrap_or("?");
    (digits, unit)
}

/// A virtual machine as QEMU is told it. Paths may be relative to the working
/// directory that QEMU is started in; sockets always should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Shown in process lists.
    pub name: VmName,
    /// The processor's architecture.
    pub arch: Arch,
    /// What runs the guest's code.
    pub accelerator: Accelerator,
    /// Number of processors.
    pub cpus: NonZeroU16,
    /// Size of RAM.
    pub memory: Mebibytes,
    /// What it starts from.
    pub boot: Boot,
    /// Disks; the first is booted from.
    pub disks: Vec<Disk>,
    /// A network card on QEMU's user network (10.0.2.0/24, host 10.0.2.2) with
    /// these forwards; `None` for no card.
    pub network: Option<Vec<Forward>>,
    /// A second network card, on a network with other machines.
    #[serde(default)]
    pub lan: Option<Lan>,
    /// Files for the guest.
    pub fw_cfg: Vec<FwCfg>,
    /// The machine's serial number (SMBIOS type 1); QEMU's own, none, without.
    #[serde(default)]
    pub serial: Option<String>,
    /// What a reset does.
    pub on_reboot: OnReboot,
    /// A hardware watchdog (Intel 6300ESB) that resets the machine.
    pub watchdog: bool,
    /// A TPM 2.0 with a state of its own ([`tpm`](crate::tpm)).
    #[serde(default)]
    pub tpm: bool,
    /// Waits for a RAM snapshot instead of booting.
    pub incoming: bool,
    /// `isa-debug-exit` at port 0xf4: a byte `v` written there ends QEMU with
    /// exit status `2v + 1`. For trial guests, x86 only.
    pub debug_exit: bool,
}

impl Machine {
    /// A machine with one processor, 512 MiB and nothing attached.
    pub fn new(name: VmName, arch: Arch, accelerator: Accelerator, boot: Boot) -> Self {
        Self {
            name,
            arch,
            accelerator,
            cpus: NonZeroU16::MIN,
            memory: Mebibytes(512),
            boot,
            disks: Vec::new(),
            network: None,
            lan: None,
            fw_cfg: Vec::new(),
            serial: None,
            on_reboot: OnReboot::Restart,
            watchdog: false,
            tpm: false,
            incoming: false,
            debug_exit: false,
        }
    }

    /// Whether it is QEMU's `raspi4b`, which has no PCI: its disk is a card, the rest on USB.
    pub fn is_raspi(&self) -> bool {
        matches!(self.boot, Boot::RaspberryPi4 { .. })
    }

    /// The host's side of the TCP forward to a port of the guest.
    pub fn host_port(&self, guest: u16) -> Option<u16> {
        self.network
            .iter()
            .flatten()
            .find(|f| f.protocol == Protocol::Tcp && f.guest.get() == guest)
            .map(|f| f.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_written() {
        let f: Forward = "8080:80".parse().unwrap();
        assert_eq!(f, Forward::tcp(8080, NonZeroU16::new(80).unwrap()));
        assert_eq!(
            "8080:80/tcp".parse::<Forward>().unwrap(),
            "8080:80".parse().unwrap()
        );
        let f: Forward = "0.0.0.0:5353:53/udp".parse().unwrap();
        assert_eq!(f.to_string(), "0.0.0.0:5353->53/udp");
        assert_eq!(f.protocol, Protocol::Udp);
        assert_eq!("0:80".parse::<Forward>().unwrap().host, 0);
    }

    #[test]
    fn forwards_that_cannot_be_say_why() {
        for (text, why) in [
            ("80", "needs a host port"),
            ("80:0", "can't be 0"),
            ("80:http", "`http` is not a port"),
            ("70000:80", "`70000` is not a port"),
            ("somewhere:80:80", "not an IPv4 address"),
            ("80:80/sctp", "unknown protocol `sctp`"),
            ("", "needs a host port"),
            ("1:2:3:4", "needs a host port"),
        ] {
            let said = text.parse::<Forward>().unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn sizes_take_the_usual_units() {
        assert_eq!("2G".parse::<Mebibytes>().unwrap(), Mebibytes(2048));
        assert_eq!("1536".parse::<Mebibytes>().unwrap(), Mebibytes(1536));
        assert_eq!("512MiB".parse::<Mebibytes>().unwrap(), Mebibytes(512));
        assert_eq!("16".parse::<DiskSize>().unwrap(), DiskSize::gib(16));
        assert_eq!("1t".parse::<DiskSize>().unwrap(), DiskSize::gib(1024));
        for wrong in ["", "G", "0", "-1", "2X", "99999999999999999999G", "ßG"] {
            assert!(wrong.parse::<Mebibytes>().is_err(), "{wrong}");
            assert!(wrong.parse::<DiskSize>().is_err(), "{wrong}");
        }
    }
}
