//! A model of U-Boot's script, `distro/u-boot/boot.cmd`, and of what it is run by.
//!
//! From U-Boot's source (2025.01):
//!
//! * `env/common.c`, `cmd/nvedit.c`: `env import -c` takes a text of so many bytes only if the
//!   CRC-32 before it is right, and of it the variables that it is given; `env export -c -s 200`
//!   writes it so, sorted by name.
//! * `fs/fat/fat_write.c`: `fatwrite` of a file of the same size writes over its clusters.
//!
//! `builder/tests/boot` runs the script itself, in U-Boot. The file system is read and written
//! by mtools: not by the code that is on trial.

use std::collections::BTreeMap;
use std::path::Path;

use slipway_images::slot::Slot;

use super::disk::mtools;

const FILES: [&str; 2] = ["slipway/slots-0.env", "slipway/slots-1.env"];

type Variables = BTreeMap<String, String>;

/// `env import -c`.
fn import(copy: &[u8]) -> Option<Variables> {
    let (sum, text) = copy.split_first_chunk()?;
    (u32::from_le_bytes(*sum) == crc32fast::hash(text)).then_some(())?;
    let end = text.windows(2).position(|two| two == [0, 0])?;
    let text = std::str::from_utf8(&text[..end]).unwrap();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    Some(pairs.map(|(k, v)| (k.into(), v.into())).collect())
}

/// `env export -c -s 200`.
fn export(variables: &Variables) -> Vec<u8> {
    let text = variables.iter().map(|(k, v)| format!("{k}={v}\0"));
    let mut copy = vec![0; 4];
    copy.extend(text.collect::<String>().bytes());
    copy.resize(512, 0);
    let sum = crc32fast::hash(&copy[4..]).to_le_bytes();
    copy[..4].copy_from_slice(&sum);
    copy
}

/// What the copies say, and which are whole.
fn state(image: &Path) -> (Variables, [bool; 2]) {
    let copy = |file: &str| import(&mtools("mtype", image, &[&format!("::/{file}")])?);
    let copies = FILES.map(copy);
    let whole = [copies[0].is_some(), copies[1].is_some()];
    let lost = || {
        let pairs = [("first", "a"), ("a", "good"), ("b", "good")];
        pairs.map(|(k, v)| (k.into(), v.into())).into()
    };
    let [first, second] = copies;
    (first.or(second).unwrap_or_else(lost), whole)
}

fn order(variables: &Variables) -> [Slot; 2] {
    match variables["first"].as_str() {
        "b" => [Slot::B, Slot::A],
        _ => [Slot::A, Slot::B],
    }
}

fn left(variables: &Variables, slot: Slot) -> &str {
    let name = slot.to_string();
    variables.get(&name).map_or("", String::as_str)
}

/// The slots that it would start, in its order.
pub fn listed(image: &Path) -> Vec<Slot> {
    let (variables, _) = state(image);
    let has = |words: &'static [&str]| {
        let variables = &variables;
        let order = order(variables).into_iter();
        order.filter(move |slot| words.contains(&left(variables, *slot)))
    };
    has(&["good", "3", "2", "1"]).chain(has(&["0"])).collect()
}

/// Chooses and counts.
pub fn boot(image: &Path) -> Option<Slot> {
    let (mut variables, whole) = state(image);
    let slot = listed(image).into_iter().next()?;
    let less = match left(&variables, slot) {
        "3" => "2",
        "2" => "1",
        "1" => "0",
        _ => return Some(slot),
    };
    variables.insert(slot.to_string(), less.into());
    let order = if whole[1] { [0, 1] } else { [1, 0] };
    for n in order {
        put(image, n, &export(&variables));
    }
    Some(slot)
}

/// Puts a copy there.
pub fn put(image: &Path, n: usize, copy: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copy");
    std::fs::write(&file, copy).unwrap();
    let to = format!("::/{}", FILES[n]);
    mtools("mcopy", image, &["-o", file.to_str().unwrap(), &to]).expect("the script's fatwrite");
}
