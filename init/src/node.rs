//! What makes this node itself: machine-id, hostname, entropy from the last run, sysctls.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use slipway_images::hex;

use crate::phase::{Context, Failure, Outcome};
use crate::{files, say, sys};

/// Where the machine-id is kept.
pub const MACHINE_ID_FILE: &str = "/var/lib/slipway/machine-id";
/// Where entropy is kept for the next boot.
pub const ENTROPY_FILE: &str = "/var/lib/slipway/random-seed";
const ENTROPY_BYTES: usize = 512;

/// Whether a text is a machine-id (machine-id(5)): 32 lower-case hex digits, not all zero.
pub fn is_machine_id(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && text.bytes().any(|b| b != b'0')
}

/// Reads the machine-id, or makes one (a random UUID of version 4, as machine-id(5) wants).
///
/// # Errors
/// Those of reading randomness and of writing.
pub fn machine_id(file: &Path) -> Result<String, Failure> {
    match files::read_trimmed(file) {
        Ok(id) if is_machine_id(&id) => return Ok(id),
        Ok(_) => say!("{} is damaged, a new one is made", file.display()),
        Err(_) => {}
    }
    let mut bytes: [u8; 16] = files::random().context("/dev/urandom")?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let id = hex(&bytes);
    files::write_atomically(file, format!("{id}\n").as_bytes(), 0o444)
        .context(format_args!("writing {}", file.display()))?;
    Ok(id)
}

/// The hostname of a node whose seed gives none.
pub fn default_hostname(machine_id: &str) -> String {
    format!("slipway-{}", machine_id.get(..6).unwrap_or("node"))
}

/// Sets the hostname, in the kernel, /etc/hostname and /etc/hosts, there with its domain if
/// it has one.
///
/// # Errors
/// Those of sethostname(2) and of writing.
pub fn set_hostname(name: &str, fqdn: Option<&str>) -> Result<(), Failure> {
    nix::unistd::sethostname(name).context(format_args!("setting the hostname {name}"))?;
    fs::write("/etc/hostname", format!("{name}\n")).context("/etc/hostname")?;
    fs::write("/etc/hosts", hosts(name, fqdn)).context("/etc/hosts")
}

fn hosts(name: &str, fqdn: Option<&str>) -> String {
    // The first name of a line is the canonical one (hosts(5)).
    let names = match fqdn {
        Some(fqdn) if fqdn != name => format!("{fqdn} {name}"),
        _ => name.to_owned(),
    };
    format!(
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n\
         ff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n127.0.1.1 {names}\n"
    )
}

/// Gives the kernel the entropy saved by the last run, which is replaced before it is
/// credited: it must never be used twice.
///
/// # Errors
/// Those of reading and writing.
pub fn restore_entropy(file: &Path) -> Outcome {
    let saved = fs::read(file).unwrap_or_default();
    let random = OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .context("/dev/urandom")?;
    if !saved.is_empty() {
        use std::io::Write;
        // Mixed in first without credit, so that the new file depends on it.
        (&random).write_all(&saved).context("mixing in entropy")?;
    }
    save_entropy(file)?;
    if saved.len() < ENTROPY_BYTES {
        return Ok("none saved".into());
    }
    credit(&random, &saved)?;
    Ok(String::new())
}

fn credit(random: &File, saved: &[u8]) -> Result<(), Failure> {
    sys::add_entropy(random, saved).context("crediting entropy")
}

/// Saves entropy for the next boot.
///
/// # Errors
/// Those of writing.
pub fn save_entropy(file: &Path) -> Result<(), Failure> {
    let bytes: [u8; ENTROPY_BYTES] = files::random().context("/dev/urandom")?;
    files::write_atomically(file, &bytes, 0o600)
        .context(format_args!("saving entropy in {}", file.display()))
}

/// One line of sysctl.d: the path below /proc/sys and the value. `None` in place of the value
/// marks a line that is not understood.
pub fn parse_sysctl(text: &str) -> Vec<Result<(String, String, bool), String>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        .map(|line| {
            // A leading `-`: no matter if it fails (sysctl.d(5)).
            let (rest, may_fail) = match line.strip_prefix('-') {
                Some(rest) => (rest, true),
                None => (line, false),
            };
            let (key, value) = rest.split_once('=').ok_or_else(|| line.to_owned())?;
            let key = key.trim();
            // With slashes the key is a path already, and dots are part of a name.
            let path = match key.find(['.', '/']) {
                Some(at) if key.as_bytes().get(at) == Some(&b'/') => key.to_owned(),
                _ => key.replace('.', "/"),
            };
            let sane = !path.is_empty()
                && !path.starts_with('/')
                && path.split('/').all(|part| !part.is_empty() && part != "..");
            if !sane {
                return Err(line.to_owned());
            }
            Ok((path, value.trim().to_owned(), may_fail))
        })
        .collect()
}

/// Applies all files of a sysctl.d directory. Those that fail are said and counted.
///
/// # Errors
/// Never for single lines; kept as an outcome for the phase.
pub fn sysctls(directory: &Path, proc_sys: &Path) -> Outcome {
    let (mut set, mut failed) = (0, 0);
    for file in files::sorted_files(directory, "conf") {
        let text = fs::read_to_string(&file).context(file.display())?;
        for line in parse_sysctl(&text) {
            let problem = match line {
                Err(line) => Some(format!("`{line}` is no sysctl")),
                Ok((path, value, may_fail)) => {
                    match files::write_existing(proc_sys.join(&path), &value) {
                        Ok(()) => None,
                        Err(_) if may_fail => continue,
                        Err(e) => Some(format!("{path} = {value}: {e}")),
                    }
                }
            };
            match problem {
                None => set += 1,
                Some(problem) => {
                    failed += 1;
                    say!("{}: {problem}", file.display());
                }
            }
        }
    }
    Ok(match failed {
        0 => format!("{set} set"),
        n => format!("{set} set, {n} failed"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_machine_id_stays_and_damage_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("machine-id");
        let id = machine_id(&file).unwrap();
        assert!(is_machine_id(&id), "{id}");
        assert_eq!(id.as_bytes()[12], b'4');
        assert_eq!(machine_id(&file).unwrap(), id);
        assert_eq!(default_hostname(&id), format!("slipway-{}", &id[..6]));
        fs::remove_file(&file).unwrap();
        fs::write(&file, "uninitialized\n").unwrap();
        assert_ne!(machine_id(&file).unwrap(), id);
        assert!(!is_machine_id(&"0".repeat(32)));
    }

    #[test]
    fn sysctl_lines() {
        let text = "# c\n; c\nnet.ipv4.ip_forward = 1\n-net.x=2\nnet/ipv4/conf/eth0.1/forwarding=0\nvm.oops\n../x = 1\n";
        let parsed = parse_sysctl(text);
        let ok = |p: &str, v: &str, f| Ok((p.to_owned(), v.to_owned(), f));
        assert_eq!(
            parsed,
            [
                ok("net/ipv4/ip_forward", "1", false),
                ok("net/x", "2", true),
                ok("net/ipv4/conf/eth0.1/forwarding", "0", false),
                Err("vm.oops".to_owned()),
                Err("../x = 1".to_owned()),
            ]
        );
    }

    #[test]
    fn sysctls_are_written_and_failures_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (conf, proc_sys) = (dir.path().join("d"), dir.path().join("sys"));
        fs::create_dir_all(proc_sys.join("vm")).unwrap();
        fs::create_dir_all(&conf).unwrap();
        fs::write(proc_sys.join("vm/a"), "0").unwrap();
        fs::write(conf.join("1.conf"), "vm.a = 7\nvm.none = 1\n-vm.none = 1\n").unwrap();
        assert_eq!(sysctls(&conf, &proc_sys).unwrap(), "1 set, 1 failed");
        assert_eq!(fs::read_to_string(proc_sys.join("vm/a")).unwrap(), "7");
    }

    #[test]
    fn saved_entropy_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seed");
        save_entropy(&file).unwrap();
        let first = fs::read(&file).unwrap();
        assert_eq!(first.len(), ENTROPY_BYTES);
        // As root the credit works; without the capability it is refused, the file is new anyhow.
        drop(restore_entropy(&file));
        assert_ne!(fs::read(&file).unwrap(), first);
    }

    proptest! {
        #[test]
        fn sysctls_never_leave_proc_sys(text in "\\PC{0,60}") {
            for (path, ..) in parse_sysctl(&text).into_iter().flatten() {
                prop_assert!(!path.starts_with('/') && !path.split('/').any(|p| p == ".."));
            }
        }
    }
}
