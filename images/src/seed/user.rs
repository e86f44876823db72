//! `user-data`: the keys of cloud-init's that a node follows, those that it can't, and why.
//!
//! Source: cloud-init's module reference; what is known here and what becomes of it
//! is the table below, and the same table in `docs/seed.md`.

use super::files::{self, FileKeys};
use super::finding::{Document, Finding, Place, Severity};
use super::machine::{CaCerts, Ntp, Shell, User};
use super::read::{Anything, At, Cx, Number, OneOrMany, Read, mapping};
use super::shape::{Shape, Text};
use super::slipway::{self, SlipwayKeys};
use super::words::{DnsName, Host, PemCertificate, SshKey, UserName, Words, Zone};
use super::yaml::{Node, Value};
use super::{Seed, yaml};

/// cloud-init's mark of this format; the first line, exactly.
pub const HEADER: &str = "#cloud-config";

const PACKAGES: &str = "the root is read-only and holds what the image was built with; add packages to the board's TOML and build";
const COMMANDS: &str =
    "a node runs no commands of its seed; put what is needed into the image, or run it as a pod";
const PASSWORDS: &str = "no password opens a node; give keys in `ssh_authorized_keys`";
const DISKS: &str = "init lays out the disk and mounts everything itself";
const SSHD: &str = "the node makes its host keys and sets up its ssh server itself";
const IDENTITY: &str =
    "the node writes these files itself, from `hostname`, `fqdn` and network-config";
const AGENTS: &str = "the image has no such program; a DaemonSet can bring it";
const MACHINERY: &str = "it steers cloud-init's own machinery, and this isn't cloud-init";
const LANGUAGE: &str = "nobody types or reads texts in a language of their own on a node";

mapping! {
    /// The whole of user-data.
    struct UserDataKeys {
        "hostname" => hostname: DnsName, "The machine's name, also the node's name in the cluster; else meta-data's `local-hostname`";
        "fqdn" => fqdn: DnsName, "The machine's name with its domain; without `hostname` its first part is the machine's name";
        "timezone" => timezone: Zone, "Time zone of logs; default UTC, also where the image lacks the zone's data";
        "ntp" => ntp: NtpKeys, "How the clock is kept";
        "ssh_authorized_keys" => keys: Vec<At<SshKey>>, "Public keys that open the machine to ssh as root; without any key there is no ssh";
        "users" => users: Vec<At<UserEntry>>, "Others who may log in by ssh, with keys only";
        "write_files" => write_files: Vec<At<FileKeys>>, "Files to write; what would land on the read-only root is refused";
        "ca_certs" => ca_certs: CaCertsKeys, "CAs that the machine's programs trust, when they fetch images for instance";
        "ca-certs" => old_ca_certs: CaCertsKeys, "Older name of `ca_certs`";
        "growpart" => growpart: Anything, "Accepted: the data partition grows to the end of the disk in any case";
        "resize_rootfs" => resize_rootfs: Anything, "Accepted: the data filesystem grows with its partition in any case";
        "ssh_pwauth" => ssh_pwauth: bool, "Only `false` is accepted: keys only";
        "slipway" => slipway: SlipwayKeys, "The machine's part in a cluster, and what cloud-init has no words for";
    }
    others {
        Granted "it is so anyway" => ["preserve_hostname", "create_hostname_file", "prefer_fqdn_over_hostname"];
        Ignored PACKAGES => ["packages", "package_update", "package_upgrade", "package_reboot_if_required", "apt", "apt_update", "apt_upgrade", "apt_reboot_if_required", "apt_preserve_sources_list", "apt_mirror", "apt_sources", "apk_repos", "yum_repos", "zypper", "snap", "drivers", "grub_dpkg", "grub-dpkg", "updates", "ubuntu_advantage", "ubuntu_pro", "rh_subscription"];
        Ignored COMMANDS => ["runcmd", "bootcmd", "ansible", "chef", "puppet", "salt_minion", "power_state", "phone_home", "autoinstall"];
        Ignored PASSWORDS => ["chpasswd", "password"];
        Ignored "images have no default user; name people and their groups in `users`" => ["user", "groups"];
        Ignored "root is who logs in with `ssh_authorized_keys`" => ["disable_root", "disable_root_opts"];
        Ignored DISKS => ["disk_setup", "fs_setup", "mounts", "mount_default_fields", "swap", "device_aliases", "lxd", "fan"];
        Ignored SSHD => ["ssh", "ssh_keys", "ssh_deletekeys", "ssh_genkeytypes", "ssh_publish_hostkeys", "ssh_quiet_keygen", "ssh_fp_console_blacklist", "no_ssh_fingerprints", "authkey_hash", "allow_public_ssh_keys"];
        Ignored "keys are not fetched from the network at boot; list them in `ssh_authorized_keys`" => ["ssh_import_id"];
        Ignored IDENTITY => ["manage_etc_hosts", "manage_resolv_conf", "manage-resolv-conf", "resolv_conf"];
        Ignored AGENTS => ["landscape", "mcollective", "rsyslog", "spacewalk", "byobu_by_default", "wireguard", "rpi"];
        Ignored LANGUAGE => ["locale", "locale_configfile", "keyboard"];
        Ignored "the node takes its randomness from the processor and the kernel, and keeps a seed of its own" => ["random_seed"];
        Ignored "the console's status page says when the node is ready" => ["final_message"];
        Ignored MACHINERY => ["merge_how", "merge_type", "vendor_data", "output", "reporting", "datasource", "datasource_list", "system_info", "cloud_init_modules", "cloud_config_modules", "cloud_final_modules", "launch-index", "unverified_modules", "syslog_fix_perms", "def_log_file", "log_cfgs"];
        Refused "interfaces are set up by the file network-config, beside user-data" => ["network"];
    }
}

mapping! {
    /// `ntp`
    struct NtpKeys {
        "enabled" => enabled: bool, "Whether the clock is set from the network; default `true`";
        "servers" => servers: Vec<At<Host>>, "Time servers";
        "pools" => pools: Vec<At<Host>>, "Names that stand for several time servers";
    }
    others {
        Ignored "the node has a client of its own" => ["ntp_client", "config"];
        Ignored "peers are for time servers" => ["peers", "allow"];
    }
}

mapping! {
    /// `ca_certs`
    struct CaCertsKeys {
        "trusted" => trusted: OneOrMany<PemCertificate>, "More CAs, PEM";
        "remove_defaults" => remove_defaults: bool, "Whether the image's own CAs are left out; default `false`";
        "remove-defaults" => old_remove_defaults: bool, "Older name of `remove_defaults`";
    }
}

mapping! {
    /// An entry of `users`.
    struct UserKeys {
        "name" => name: UserName, "Name to log in with";
        "gecos" => gecos: Words, "What a person would call it";
        "uid" => uid: Number<1, 65533>, "Number; by default the next one from 1000 on";
        "groups" => groups: OneOrMany<Words>, "Groups besides its own, in a list or with commas; those the image lacks are made";
        "shell" => shell: Words, "`/bin/sh` (default), or `/usr/sbin/nologin` for none";
        "sudo" => sudo: Anything, "Accepted and without effect: the image has no sudo; root's keys are in `ssh_authorized_keys`";
        "lock_passwd" => lock: bool, "Only `true` is accepted: keys only";
        "ssh_authorized_keys" => keys: OneOrMany<SshKey>, "Public keys that open it";
    }
    others {
        Granted "it is so anyway" => ["no_log_init", "create_groups", "no_user_group"];
        Refused PASSWORDS => ["passwd", "hashed_passwd", "plain_text_passwd"];
        Ignored "keys are not fetched from the network at boot; list them in `ssh_authorized_keys`" => ["ssh_import_id"];
        Ignored "homes are made by the node on the data partition" => ["homedir", "no_create_home"];
        Ignored "the image knows no such thing" => ["system", "expiredate", "primary_group", "selinux_user", "snapuser", "doas", "inactive", "ssh_redirect_user"];
    }
}

/// cloud-init's word for a distribution's own user.
const DEFAULT: Shape = Shape::Text(&Text {
    what: "text",
    choices: &["default"],
    secret: false,
});

/// A user, or the word `default`.
pub(super) enum UserEntry {
    Default,
    User(Box<UserKeys>),
}

impl Read for UserEntry {
    const SHAPE: &'static Shape = &Shape::Either(&[<UserKeys as Read>::SHAPE, &DEFAULT]);

    fn read(node: &Node, cx: &mut Cx) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, .. } if text == "default" => {
                let spot = cx.spot(node);
                cx.warn(&spot, "has no effect here, because images have no default user; root's keys are in `ssh_authorized_keys`");
                Some(Self::Default)
            }
            Value::Map(_) => UserKeys::read(node, cx).map(|keys| Self::User(Box::new(keys))),
            _ => cx.wrong(node, "a mapping with a `name`"),
        }
    }
}

/// The form of the document.
pub const SHAPE: &Shape = <UserDataKeys as Read>::SHAPE;

/// Reads the document into the seed.
pub fn read(text: &str, seed: &mut Seed, cx: &mut Cx) {
    if let Some(fault) = foreign(text) {
        cx.push(fault);
        return;
    }
    let node = match yaml::parse(text, Document::UserData) {
        Ok(node) => node,
        Err(fault) => return cx.push(fault),
    };
    if let Some(keys) = UserDataKeys::read(&node, cx) {
        check(keys, seed, cx);
    }
}

/// Says what a text is that isn't cloud-config.
fn foreign(text: &str) -> Option<Finding> {
    let first = text.lines().next().unwrap_or_default().trim_end();
    if first == HEADER {
        return None;
    }
    let lower = first.to_ascii_lowercase();
    let is = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
    let what = if is(&["content-type:", "mime-version:", "from "]) {
        "this is a MIME multi-part message; a node takes one plain document: put everything into a single"
    } else if is(&["#include"]) {
        "this is a list of URLs to include (#include); a node fetches no more than its seed: put their content into a single"
    } else if is(&["#!"]) {
        "this is a script (#!); a node runs no commands of its seed. Write a"
    } else if is(&[
        "## template:",
        "#cloud-config-jsonp",
        "#cloud-config-archive",
        "#cloud-boothook",
        "#part-handler",
        "#upstart-job",
    ]) {
        "this is another of cloud-init's formats than cloud-config, and the node doesn't take it. Write a"
    } else if first.trim_start_matches('\u{feff}') == HEADER {
        "the text begins with a byte order mark; save it as UTF-8 without one:"
    } else {
        "the first line must be"
    };
    Some(Finding {
        severity: Severity::Error,
        place: Place {
            document: Document::UserData,
            line: 1,
            column: 1,
        },
        key: String::new(),
        message: format!("{what} {HEADER}"),
        meaning: None,
    })
}

fn values<T, U>(given: Option<At<Vec<At<T>>>>, into: impl Fn(T) -> U) -> Vec<U> {
    let all = given.map(|given| given.value).unwrap_or_default();
    all.into_iter().map(|one| into(one.value)).collect()
}

fn check(keys: UserDataKeys, seed: &mut Seed, cx: &mut Cx) {
    let label = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    if let (Some(host), Some(fqdn)) = (&keys.hostname, &keys.fqdn)
        && label(&host.value.0) != label(&fqdn.value.0)
    {
        cx.warn(
            &fqdn.spot,
            "is of another machine than `hostname` says; `hostname` is the node's name",
        );
    }
    seed.fqdn = keys.fqdn.map(|name| name.value.0);
    seed.hostname = keys
        .hostname
        .map(|name| name.value.0)
        .or_else(|| seed.fqdn.as_deref().map(label));
    seed.timezone = keys.timezone.map(|zone| zone.value.0);
    if let Some(ntp) = keys.ntp {
        seed.ntp = Ntp {
            enabled: ntp.value.enabled.is_none_or(|enabled| enabled.value),
            servers: values(ntp.value.servers, |host| host.0),
            pools: values(ntp.value.pools, |host| host.0),
        };
    }
    seed.ssh_authorized_keys = values(keys.keys, |key| key.0);
    if let Some(yes) = keys.ssh_pwauth.filter(|pwauth| pwauth.value) {
        cx.error(&yes.spot, format!("can't be true: {PASSWORDS}"));
    }
    seed.users = users(keys.users.map(|users| users.value).unwrap_or_default(), cx);
    seed.write_files = files::check(
        keys.write_files
            .map(|files| files.value)
            .unwrap_or_default(),
        &seed.users,
        cx,
    );
    if let (Some(_), Some(old)) = (&keys.ca_certs, &keys.old_ca_certs) {
        cx.error(&old.spot, "stands beside `ca_certs`; one of them is enough");
    }
    if let Some(ca) = keys.ca_certs.or(keys.old_ca_certs) {
        let remove = ca.value.remove_defaults.or(ca.value.old_remove_defaults);
        seed.ca_certs = CaCerts {
            trusted: values(
                ca.value.trusted.map(|t| At {
                    value: t.value.0,
                    spot: t.spot,
                }),
                |pem| pem.0,
            ),
            remove_defaults: remove.is_some_and(|remove| remove.value),
        };
    }
    if let Some(keys) = keys.slipway {
        slipway::check(keys.value, seed, cx);
    }
}

fn users(entries: Vec<At<UserEntry>>, cx: &mut Cx) -> Vec<User> {
    let mut users: Vec<User> = Vec::new();
    for entry in entries {
        let UserEntry::User(keys) = entry.value else {
            continue;
        };
        let Some(name) = keys.name else {
            cx.lacks(&entry.spot, "name", "");
            continue;
        };
        if users.iter().any(|user| user.name == name.value.0) {
            cx.error(&name.spot, "is the name of an earlier user, too");
        }
        if let Some(lock) = keys.lock.filter(|lock| !lock.value) {
            cx.error(&lock.spot, format!("can't be false: {PASSWORDS}"));
        }
        if let Some(sudo) = keys.sudo {
            cx.warn(
                &sudo.spot,
                "has no effect here, because the image has no sudo; log in as root",
            );
        }
        let shell = keys
            .shell
            .map_or(Shell::Sh, |shell| match shell.value.0.as_str() {
                "/bin/sh" | "/usr/bin/sh" => Shell::Sh,
                "/usr/sbin/nologin" | "/sbin/nologin" | "/bin/false" | "/usr/bin/false" => {
                    Shell::Nologin
                }
                _ => {
                    cx.warn(&shell.spot, "isn't in the image; /bin/sh is used");
                    Shell::Sh
                }
            });
        let given = keys.keys.map(|keys| At {
            value: keys.value.0,
            spot: keys.spot,
        });
        let keys_given = values(given, |key| key.0);
        if keys_given.is_empty() && shell == Shell::Sh {
            cx.warn(
                &name.spot,
                "has no `ssh_authorized_keys`, so nobody can log in as it",
            );
        }
        users.push(User {
            groups: groups(keys.groups, cx),
            name: name.value.0,
            gecos: keys.gecos.map(|gecos| gecos.value.0),
            // At most 65533.
            uid: keys.uid.and_then(|uid| u32::try_from(uid.value.0).ok()),
            shell,
            ssh_authorized_keys: keys_given,
        });
    }
    users
}

fn groups(given: Option<At<OneOrMany<Words>>>, cx: &mut Cx) -> Vec<String> {
    let mut groups = Vec::new();
    for words in given.map(|given| given.value.0).unwrap_or_default() {
        for group in words
            .value
            .0
            .split(',')
            .map(str::trim)
            .filter(|group| !group.is_empty())
        {
            if super::words::is_user(group) {
                groups.push(group.to_owned());
            } else {
                cx.error(&words.spot, format!("{group:?} is no group's name"));
            }
        }
    }
    groups
}
