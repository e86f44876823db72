//! A model of systemd-boot, as far as it chooses and counts.
//!
//! From its source (systemd v257, `src/boot/boot.c`) and documentation ("Automatic Boot
//! Assessment"; Boot Loader Specification, type 2 entries; UAPI "Version Format"):
//!
//! * `config_load_type2_entries`: files of `EFI/Linux` that end with `.efi` and begin with
//!   neither `.` nor `auto-`, which have the PE sections `.osrel` and `.linux` or `.cmdline`'s
//!   like (`boot_entry_add_type2`); others are passed over in silence.
//! * `boot_entry_parse_tries`: the last `+` and what follows, `LEFT` or `LEFT-DONE`, up to the
//!   suffix; anything else there is no counter.
//! * `boot_entry_compare`: without tries last; sort key (`IMAGE_ID`, or `ID`) up; version
//!   (`IMAGE_VERSION`, `VERSION`, `VERSION_ID`, `BUILD_ID`) down; file name down; more tries
//!   left first; fewer tries done first. The last two are compared when both count.
//! * `config_select_default_entry`: the first of that order, as nothing here sets the EFI
//!   variables or the line of `loader.conf` that would come before.
//! * `boot_entry_bump_counters`: before it starts an entry that counts, it is renamed to one
//!   left less (never below 0) and one done more.
//!
//! The file system is read and renamed in by mtools: not by the code that is on trial.

use std::cmp::Ordering;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::disk::{DISK, ESP, mtools};

/// Something that the loader would list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub file: String,
    pub sort_key: Option<String>,
    pub version: Option<String>,
    pub tries: Option<(u32, u32)>,
    pub content: Vec<u8>,
}

/// What it lists, in its order.
pub fn entries(image: &Path) -> Vec<Entry> {
    let listed = mtools("mdir", image, &["-b", "::/EFI/Linux"]).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let names = listed
        .lines()
        .filter_map(|line| line.strip_prefix("::/EFI/Linux/"));
    let mut found: Vec<Entry> = names.filter_map(|name| entry(image, name)).collect();
    found.sort_by(compare);
    found
}

fn entry(image: &Path, file: &str) -> Option<Entry> {
    let lower = file.to_ascii_lowercase();
    if !lower.ends_with(".efi") || lower.starts_with("auto-") || lower.starts_with('.') {
        return None;
    }
    let content = mtools("mtype", image, &[&format!("::/EFI/Linux/{file}")])?;
    section(&content, ".linux")?;
    let release = String::from_utf8(section(&content, ".osrel")?.to_vec()).ok()?;
    let value = |key: &str| {
        let line = release
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.map(|v| v.trim_matches('"').to_owned())
    };
    value("PRETTY_NAME").or_else(|| value("ID"))?;
    let versions = ["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"];
    Some(Entry {
        sort_key: value("IMAGE_ID").or_else(|| value("ID")),
        version: versions.into_iter().find_map(value),
        tries: tries(&lower).map(|(left, done, _)| (left, done)),
        file: file.to_owned(),
        content,
    })
}

/// Left, done, and where the counter begins, behind its plus.
fn tries(name: &str) -> Option<(u32, u32, usize)> {
    let at = name.rfind('+')? + 1;
    let counter = name[at..].strip_suffix(".efi")?;
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|n| plain && *n <= i32::MAX as u32)
    };
    let (left, done) = match counter.split_once('-') {
        Some((left, done)) => (number(left)?, number(done)?),
        None => (number(counter)?, 0),
    };
    Some((left, done, at))
}

fn compare(a: &Entry, b: &Entry) -> Ordering {
    let used_up = |e: &Entry| e.tries.is_some_and(|(left, _)| left == 0);
    let by_key = || match (&a.sort_key, &b.sort_key) {
        (Some(x), Some(y)) => x.cmp(y).then_with(|| {
            let empty = String::new();
            versions(
                b.version.as_ref().unwrap_or(&empty),
                a.version.as_ref().unwrap_or(&empty),
            )
        }),
        (x, y) => x.is_none().cmp(&y.is_none()),
    };
    let by_tries = || match (a.tries, b.tries) {
        (Some(x), Some(y)) => y.0.cmp(&x.0).then(x.1.cmp(&y.1)),
        _ => Ordering::Equal,
    };
    let id = |e: &Entry| e.file.to_ascii_lowercase();
    used_up(a)
        .cmp(&used_up(b))
        .then_with(by_key)
        .then_with(|| versions(&id(b), &id(a)))
        .then_with(by_tries)
}

/// UAPI.10 Version Format, "Ordering".
pub fn versions(a: &str, b: &str) -> Ordering {
    let valid = |c: char| c.is_ascii_alphanumeric() || "~-^.".contains(c);
    let (mut a, mut b) = (a, b);
    loop {
        a = a.trim_start_matches(|c| !valid(c));
        b = b.trim_start_matches(|c| !valid(c));
        if a.is_empty() && b.is_empty() {
            return Ordering::Equal;
        }
        // `~` is before the end, the end before the others.
        if a.starts_with('~') || b.starts_with('~') {
            match (a.strip_prefix('~'), b.strip_prefix('~')) {
                (Some(x), Some(y)) => (a, b) = (x, y),
                // The one that has it comes first.
                (x, y) => return y.is_some().cmp(&x.is_some()),
            }
            continue;
        }
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        let mut same = false;
        for mark in ['-', '^', '.'] {
            match (a.strip_prefix(mark), b.strip_prefix(mark)) {
                (None, None) => continue,
                (Some(x), Some(y)) => (a, b) = (x, y),
                // The one that has it comes first.
                (x, y) => return y.is_some().cmp(&x.is_some()),
            }
            same = true;
            break;
        }
        if same {
            continue;
        }
        let digit = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
        let of = |s: &str, kind: fn(char) -> bool| s.find(|c| !kind(c)).unwrap_or(s.len());
        let order = if digit(a) || digit(b) {
            let (x, y) = (of(a, |c| c.is_ascii_digit()), of(b, |c| c.is_ascii_digit()));
            let (left, right) = (
                a[..x].trim_start_matches('0'),
                b[..y].trim_start_matches('0'),
            );
            (a, b) = (&a[x..], &b[y..]);
            left.len().cmp(&right.len()).then(left.cmp(right))
        } else {
            let (x, y) = (
                of(a, |c| c.is_ascii_alphabetic()),
                of(b, |c| c.is_ascii_alphabetic()),
            );
            // Capitals before small letters, as in ASCII.
            let (left, right) = (&a[..x], &b[..y]);
            (a, b) = (&a[x..], &b[y..]);
            left.cmp(right)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Boots: counts, and gives what is started. None if there is nothing.
pub fn boot(image: &Path) -> Option<Entry> {
    let first = entries(image).into_iter().next()?;
    if let Some((left, done, at)) = tries(&first.file.to_ascii_lowercase()) {
        let left = left.saturating_sub(1);
        let new = format!("{}{left}-{}.efi", &first.file[..at], done + 1);
        let (from, to) = (
            format!("::/EFI/Linux/{}", first.file),
            format!("::/EFI/Linux/{new}"),
        );
        mtools("mren", image, &[&from, &to]).expect("the loader's rename");
    }
    Some(first)
}

/// A unified kernel image as small as can be: PE with `.osrel` and `.linux`.
pub fn uki(release: &str, linux: &[u8]) -> Vec<u8> {
    let sections = [(".osrel", release.as_bytes()), (".linux", linux)];
    let mut head = b"MZ".to_vec();
    head.resize(60, 0);
    head.extend(64u32.to_le_bytes());
    head.extend(b"PE\0\0");
    head.extend(0x8664u16.to_le_bytes());
    head.extend((sections.len() as u16).to_le_bytes());
    head.extend([0; 16]);
    let mut at = head.len() + 40 * sections.len();
    let mut body: Vec<u8> = Vec::new();
    for (name, content) in sections {
        let mut field = name.as_bytes().to_vec();
        field.resize(8, 0);
        head.extend(field);
        for number in [content.len(), at, content.len(), at] {
            head.extend((number as u32).to_le_bytes());
        }
        head.extend([0; 16]);
        at += content.len();
        body.extend(content);
    }
    head.extend(body);
    head
}

fn section<'a>(pe: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let number = |at: usize, len: usize| {
        let bytes = pe.get(at..at + len)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0usize, |n, b| n << 8 | usize::from(*b)),
        )
    };
    let start = number(60, 4).filter(|_| pe.starts_with(b"MZ"))?;
    (pe.get(start..start + 4)? == b"PE\0\0").then_some(())?;
    let table = start + 24 + number(start + 20, 2)?;
    (0..number(start + 6, 2)?).find_map(|n| {
        let at = table + 40 * n;
        let found = pe.get(at..at + 8)?;
        let (len, place) = (number(at + 16, 4)?, number(at + 20, 4)?);
        found
            .starts_with(name.as_bytes())
            .then(|| pe.get(place..place + len))?
    })
}

/// A disk with an empty boot partition, but for its directories, and empty roots and areas.
pub fn formatted() -> Vec<u8> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("esp");
        let size = (ESP / 1024).to_string();
        let made = Command::new("mkfs.vfat")
            .args(["-F", "32", "-s", "1", "-S", "512", "-C"])
            .arg(&path)
            .arg(size)
            .output()
            .expect("ci/setup installs dosfstools");
        assert!(made.status.success(), "{made:?}");
        mtools("mmd", &path, &["::/EFI", "::/EFI/Linux", "::/slipway"]).unwrap();
        let mut image = std::fs::read(path).unwrap();
        image.resize(DISK as usize, 0);
        image
    };
    IMAGE.get_or_init(make).clone()
}

#[test]
fn versions_are_ordered_as_the_specification_says() {
    // Its examples, each line from old to new.
    for line in [
        "~ 1~ 1",
        "122.1 123~rc1-1 123 123-a 123-a.1 123-1 123-1.1 123^post1 123.a-1 123.1-1 123a-1 124-1",
        "slipway-9-a.efi slipway-10-a.efi slipway-10-b.efi",
        "slipway-7-b.efi slipway-8-a+0-3.efi",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        for (i, a) in words.iter().enumerate() {
            for (k, b) in words.iter().enumerate() {
                assert_eq!(versions(a, b), i.cmp(&k), "{a} {b}");
            }
        }
    }
    assert_eq!(versions("1_2", "1 2"), Ordering::Equal);
    assert_eq!(versions("001", "1"), Ordering::Equal);
}

#[test]
fn a_version_in_os_release_would_overrule_our_order() {
    // Why the builder leaves it out of the boot menu's `os-release`.
    let entry = |file: &str, version: Option<&str>| Entry {
        file: file.into(),
        sort_key: Some("slipway".into()),
        version: version.map(str::to_owned),
        tries: tries(file).map(|(left, done, _)| (left, done)),
        content: Vec::new(),
    };
    let (old, new) = ("slipway-7-a.efi", "slipway-8-b+3.efi");
    assert_eq!(
        compare(&entry(new, None), &entry(old, None)),
        Ordering::Less
    );
    let newer = compare(&entry(new, Some("1.0")), &entry(old, Some("2.0")));
    assert_eq!(newer, Ordering::Greater, "a downgrade would never be tried");
    let gone = entry("slipway-8-b+0-3.efi", None);
    assert_eq!(compare(&gone, &entry(old, None)), Ordering::Greater);
}
