//! `write_files`: content decoded, paths held against what a node lets be written.
//!
//! The root is read-only under its slots. `/etc` is made anew in memory at each boot
//! and `/run` and `/tmp` are memory, so files there are written at each boot; `/var` is
//! the data partition, so files there are written once for each instance.

use std::io::Read as _;

use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::machine::{Content, User, When, WriteFile};
use super::read::{Anything, At, Cx, Read, Word, mapping};
use super::shape::{Shape, Text};
use super::words::{choice, is_user, text};
use super::yaml::{Node, Style, Value};

/// Where files may be written, and when they are.
pub const ROOTS: [(&str, When); 4] = [
    ("/etc", When::EachBoot),
    ("/run", When::EachBoot),
    ("/tmp", When::EachBoot),
    ("/var", When::FirstBoot),
];

/// What is the node's own below them, and what to do instead.
const OWN: [(&str, &str); 14] = [
    ("/etc/fstab", "init mounts everything"),
    ("/etc/group", "it is made from `users`"),
    ("/etc/hostname", "it is made from `hostname`"),
    ("/etc/hosts", "it is made from `hostname` and `fqdn`"),
    ("/etc/localtime", "it is made from `timezone`"),
    ("/etc/machine-id", "the node makes its own"),
    ("/etc/mtab", "the kernel tells it"),
    ("/etc/passwd", "it is made from `users`"),
    (
        "/etc/resolv.conf",
        "it is made from network-config's `nameservers`",
    ),
    (
        "/etc/shadow",
        "no password opens a node; give keys in `users`",
    ),
    ("/run/slipway", "it is init's"),
    ("/var/lib/clusterd", "it is the cluster's state"),
    ("/var/lib/containerd", "it is containerd's"),
    ("/var/lib/slipway", "it is init's"),
];

/// Bytes that one file may decode to.
const FILE_LIMIT: usize = 4 << 20;
/// Bytes that all files may decode to.
const TOTAL_LIMIT: usize = 8 << 20;

mapping! {
    /// An entry of `write_files`.
    struct FileKeys {
        "path" => path: FilePath, "Where: below /etc, /run or /tmp (written at each boot), or /var (written once for each instance-id)";
        "content" => content: RawContent, "What the file holds; nothing by default";
        "encoding" => encoding: Encoding, "How `content` is encoded; default: as it stands";
        "permissions" => permissions: Mode, "Permission bits, octal, in quotes; default `0644`";
        "owner" => owner: Owner, "Whose it is, as USER or USER:GROUP; default `root:root`";
        "append" => append: bool, "Whether the content goes behind what is there; default `false`";
        "defer" => defer: Anything, "Accepted: files are always written after users are made";
    }
    others {
        Refused "the content would come from the network at boot; put it into `content`" => ["source"];
    }
}

/// An absolute path that can be written.
pub(super) struct FilePath(String, When);

impl Word for FilePath {
    const TEXT: Text = text("absolute path");

    fn parse(path: &str) -> Result<Self, String> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let clean = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
        if !path.starts_with('/') || path.len() > 1024 || path.contains(|c: char| c.is_control()) {
            return Err("is no absolute path".into());
        }
        if parts.is_empty() || !parts.iter().all(clean) {
            return Err("has empty parts, `.` or `..` in it; write it plainly".into());
        }
        let within = |dir: &str| {
            path.strip_prefix(dir)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // /var/run is a link to /run.
        if within("/var/run") {
            return Err("goes through the link /var/run; say /run".into());
        }
        if let Some((own, why)) = OWN.iter().find(|(own, _)| within(own)) {
            return Err(format!("can't be written: {own} is the node's own, {why}"));
        }
        match ROOTS.iter().find(|(root, _)| within(root)) {
            Some((root, _)) if *root == path => Err("is a directory".into()),
            Some((_, when)) => Ok(Self(path.to_owned(), *when)),
            None => {
                let top = parts.first().copied().unwrap_or_default();
                Err(format!(
                    "can't be written: /{top} is on the root, which is read-only; files can be below /etc, /run, /tmp and /var"
                ))
            }
        }
    }
}

/// A text as it stands, or `!!binary`.
pub(super) struct RawContent {
    text: String,
    binary: bool,
}

impl Read for RawContent {
    const SHAPE: &'static Shape = &Shape::Text(&Text {
        what: "text",
        choices: &[],
        secret: true,
    });

    fn read(node: &Node, cx: &mut Cx) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, style } => Some(Self {
                text: text.clone(),
                binary: *style == Style::Binary,
            }),
            _ => cx.wrong(node, "a text"),
        }
    }
}

/// How content is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Base64,
    Gzip,
    GzipBase64,
}

choice!(Encoding {
    "text/plain" => Self::Plain,
    "b64" => Self::Base64,
    "base64" => Self::Base64,
    "gz" => Self::Gzip,
    "gzip" => Self::Gzip,
    "gz+b64" => Self::GzipBase64,
    "gz+base64" => Self::GzipBase64,
    "gzip+b64" => Self::GzipBase64,
    "gzip+base64" => Self::GzipBase64,
});

/// Permission bits.
pub(super) struct Mode(u32);

impl Word for Mode {
    const TEXT: Text = text("octal number, as '0644'");
    fn parse(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal =
            (3..=5).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        match u32::from_str_radix(digits, 8) {
            Ok(bits) if octal && bits <= 0o7777 => Ok(Self(bits)),
            _ => Err("is no octal number of permission bits, such as '0644'".into()),
        }
    }
}

/// User and group of a file.
pub(super) struct Owner {
    user: String,
    group: Option<String>,
}

impl Word for Owner {
    const TEXT: Text = text("USER or USER:GROUP");
    fn parse(text: &str) -> Result<Self, String> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let valid = |name: &str| is_user(name) || name.parse::<u32>().is_ok();
        if valid(user) && group.is_none_or(valid) {
            Ok(Self {
                user: user.into(),
                group: group.map(str::to_owned),
            })
        } else {
            Err("is no USER or USER:GROUP".into())
        }
    }
}

/// Users and groups that every image has (the builder's `recipe/skeleton.rs`).
const USERS: [&str; 2] = ["root", "nobody"];
const GROUPS: [&str; 6] = ["root", "tty", "disk", "kmem", "shadow", "nogroup"];

/// Checks the entries against each other, and against the users there will be.
pub(super) fn check(entries: Vec<At<FileKeys>>, users: &[User], cx: &mut Cx) -> Vec<WriteFile> {
    let mut files: Vec<WriteFile> = Vec::new();
    let mut total = 0;
    for entry in entries {
        let keys = entry.value;
        let Some(path) = keys.path else {
            cx.lacks(&entry.spot, "path", "");
            continue;
        };
        let append = keys.append.is_some_and(|append| append.value);
        if !append && files.iter().any(|file| file.path == path.0) {
            cx.warn(
                &path.spot,
                "is written by an earlier entry, too; this one wins",
            );
        }
        let content = keys
            .content
            .and_then(|c| decoded(&c, keys.encoding.map(|e| e.value), cx));
        let content = content.unwrap_or_default();
        total += content.len();
        if total > TOTAL_LIMIT {
            cx.error(
                &entry.spot,
                format!("all files together are larger than {TOTAL_LIMIT} bytes"),
            );
            break;
        }
        let (owner, group) = owner(keys.owner, users, cx);
        let FilePath(path, when) = path.value;
        files.push(WriteFile {
            path,
            content: Content(content),
            permissions: keys.permissions.map_or(0o644, |mode| mode.value.0),
            owner,
            group,
            append,
            when,
        });
    }
    files
}

fn owner(given: Option<At<Owner>>, users: &[User], cx: &mut Cx) -> (String, String) {
    let Some(given) = given else {
        return ("root".into(), "root".into());
    };
    let numeric = |name: &str| name.parse::<u32>().is_ok();
    let known = |name: &str| {
        USERS.contains(&name) || numeric(name) || users.iter().any(|user| user.name == name)
    };
    let has_group = |name: &str| {
        let of = |user: &User| user.name == name || user.groups.iter().any(|group| group == name);
        GROUPS.contains(&name) || numeric(name) || users.iter().any(of)
    };
    if !known(&given.user) {
        cx.error(
            &given.spot,
            format!(
                "there is no user {:?}: neither in the image nor in `users`",
                given.user
            ),
        );
    }
    if let Some(group) = given.group.as_ref().filter(|group| !has_group(group)) {
        cx.error(
            &given.spot,
            format!("there is no group {group:?}: neither in the image nor in `users`"),
        );
    }
    let Owner { user, group } = given.value;
    let own = if user == "nobody" {
        "nogroup".into()
    } else {
        user.clone()
    };
    let group = group.unwrap_or(own);
    (user, group)
}

fn decoded(content: &At<RawContent>, encoding: Option<Encoding>, cx: &mut Cx) -> Option<Vec<u8>> {
    let encoding = encoding.unwrap_or(Encoding::Plain);
    let mut bytes = content.text.clone().into_bytes();
    if content.binary || matches!(encoding, Encoding::Base64 | Encoding::GzipBase64) {
        match from_base64(&content.text) {
            Some(decoded) => bytes = decoded,
            None => {
                cx.error(&content.spot, "is not base64, as its encoding says");
                return None;
            }
        }
    }
    if matches!(encoding, Encoding::Gzip | Encoding::GzipBase64) {
        let mut plain = Vec::new();
        let limit = FILE_LIMIT as u64 + 1;
        let read = flate2::read::MultiGzDecoder::new(bytes.as_slice())
            .take(limit)
            .read_to_end(&mut plain);
        if read.is_err() {
            cx.error(&content.spot, "is not whole gzip, as its encoding says");
            return None;
        }
        bytes = plain;
    }
    if bytes.len() > FILE_LIMIT {
        cx.error(
            &content.spot,
            format!("decodes to more than {FILE_LIMIT} bytes"),
        );
        return None;
    }
    Some(bytes)
}

/// Base64 in lines, with or without padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &ALPHABET,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let mut text = text.to_owned();
    text.retain(|c| !c.is_ascii_whitespace());
    ENGINE.decode(text).ok()
}
