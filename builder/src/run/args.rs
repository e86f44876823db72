//! What `slipway run` is asked, and what it answers.

use std::fmt;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use slipway_qemu::machine::{DiskSize, Forward, Mebibytes};
use slipway_qemu::{VmName, accel};

/// Boot an image in QEMU.
///
/// The image is never written to: the machine gets a disk of its own on top of
/// it, and a second run of the same name boots that disk again. Ctrl-C powers
/// the machine off as its power button would; a second one pulls the plug.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// A board whose image was built, or an image's path (.img or .img.zst)
    /// [default: x86_64, or what the named machine was made from].
    pub image: Option<String>,
    /// The machine's name, which is also the node's [default: the image's].
    #[arg(long)]
    pub name: Option<VmName>,
    /// Number of processors [default: 2, or as before].
    #[arg(long, value_name = "N")]
    pub cpus: Option<NonZeroU16>,
    /// Memory, as 2048, 2048M or 2G [default: 2G, or as before].
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Mebibytes>,
    /// Size of a new disk, as 16G; it takes only what is written [default: 16G].
    #[arg(long, value_name = "SIZE")]
    pub disk_size: Option<DiskSize>,
    /// Lead a port of this host's loopback to a port of the machine;
    /// [ADDRESS:]HOST:GUEST[/udp], host port 0 for any free one. The API's 6443
    /// and the node's own 7443 are always forwarded.
    #[arg(long, value_name = "HOST:GUEST")]
    pub forward: Vec<Forward>,
    /// Have the node fetch its seed from this URL, which it is told by its serial
    /// number in SMBIOS, instead of giving it one. This host is 10.0.2.2 to it. No
    /// kubeconfig or credential is made here: they belong to that seed.
    #[arg(long, value_name = "URL")]
    pub seed: Option<String>,
    /// Let other machines onto this one's network (`--join`), up to three.
    #[arg(long, conflicts_with = "join")]
    pub lan: bool,
    /// Be an agent of the cluster of this machine, which runs with `--lan` [default: as before].
    #[arg(long, value_name = "NAME", conflicts_with = "seed")]
    pub join: Option<VmName>,
    /// Give the machine a TPM 2.0 (swtpm), in which a new one keeps the key of its data.
    #[arg(long)]
    pub tpm: bool,
    /// QEMU's machine for a Raspberry Pi 4's image [default: raspi4b where QEMU has it (10.0 or
    /// newer), else virt; or as before].
    #[arg(long, value_name = "TYPE")]
    pub machine: Option<MachineType>,
    /// Leave the machine running in the background.
    #[arg(long)]
    pub detach: bool,
    /// Run until the node is Ready, or for so many seconds; then power off, or
    /// with --detach leave the machine running.
    #[arg(long, value_name = "ready|SECONDS")]
    pub until: Option<Until>,
    /// How long `--until ready` may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    pub timeout: Option<u64>,
    /// Start over with a new disk and a new cluster, losing the old; `if-changed`
    /// only when the image is another one than the disk was made from.
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always"
    )]
    pub fresh: Option<Fresh>,
    /// Boot with firmware that enforces Secure Boot. It has no keys at first: an image built
    /// with --secure-boot-keys brings them. A machine that was started so once stays so.
    #[arg(long, conflicts_with_all = ["kernel", "bios"])]
    pub secure_boot: bool,
    /// Boot this kernel directly instead of the image's loader (with --initrd
    /// and --append), for work on the early boot.
    #[arg(long, value_name = "FILE", hide = true)]
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk for --kernel.
    #[arg(long, value_name = "FILE", requires = "kernel", hide = true)]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line for --kernel.
    #[arg(long, value_name = "TEXT", requires = "kernel", hide = true)]
    pub append: Option<String>,
    /// Boot with QEMU's BIOS instead of UEFI.
    #[arg(long, conflicts_with = "kernel", hide = true)]
    pub bios: bool,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The node is Ready.
    Ready,
    /// So much time has passed.
    After(Duration),
}

impl std::str::FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "ready" {
            return Ok(Self::Ready);
        }
        text.parse()
            .map(|seconds| Self::After(Duration::from_secs(seconds)))
            .map_err(|_| format!("`{text}` is neither `ready` nor a number of seconds"))
    }
}

/// What QEMU emulates for an image that is for a board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MachineType {
    /// A machine of QEMU's own: any number of processors, any memory, virtio.
    Virt,
    /// A Raspberry Pi 4 with 4 processors and 2 GiB: its SD card, its serial port; network on
    /// USB.
    #[value(name = "raspi4b")]
    Raspi4b,
}

/// When to lose the old disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fresh {
    /// In any case.
    Always,
    /// If the image isn't the one that the disk was made from.
    IfChanged,
}

/// What a started machine is reached by; the result of `slipway run`.
#[derive(Debug, Clone, Serialize)]
pub struct Started {
    /// Its name.
    pub name: String,
    /// `running`, `ready` or `stopped`.
    pub state: &'static str,
    /// QEMU's process.
    pub pid: i32,
    /// `kvm` or `tcg`.
    pub accelerator: accel::Accelerator,
    /// The administrator's kubeconfig; none for a node that fetches its seed.
    pub kubeconfig: Option<PathBuf>,
    /// Where the API is reached from this host.
    pub api: String,
    /// Forwarded ports.
    pub forwards: Vec<Forward>,
    /// What the console says.
    pub console_log: PathBuf,
    /// Seconds from the start until the node was Ready.
    pub ready_after: Option<f64>,
}

/// A line for `eval`.
impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kubeconfig {
            Some(path) => write!(f, "export KUBECONFIG={}", shell_word(path)),
            None => f.write_str(": no kubeconfig is made for a seed by URL"),
        }
    }
}

/// A path as one word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_the_shell() {
        assert_eq!(shell_word(Path::new("/home/a/k")), "/home/a/k");
        assert_eq!(shell_word(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }

    #[test]
    fn until_is_ready_or_a_time() {
        assert_eq!("ready".parse::<Until>().unwrap(), Until::Ready);
        assert_eq!(
            "90".parse::<Until>().unwrap(),
            Until::After(Duration::from_secs(90))
        );
        assert!("soon".parse::<Until>().unwrap_err().contains("`soon`"));
    }
}
