//! The power button: input devices that have KEY_POWER (linux/input-event-codes.h).

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::mem::size_of;
use std::path::Path;

use crate::{files, say};

const EV_KEY: u16 = 1;
const KEY_POWER: usize = 116;
const EVENT_BYTES: usize = size_of::<libc::input_event>();

/// The input devices followed so far.
#[derive(Debug, Default)]
pub struct PowerButtons(HashSet<String>);

impl PowerButtons {
    /// Follows all devices with a power key that are not followed yet.
    pub fn scan<F: FnMut() + Send + Clone + 'static>(&mut self, pressed: &F) {
        let class = Path::new("/sys/class/input");
        for name in files::names(class) {
            if !name.starts_with("event") || self.0.contains(&name) {
                continue;
            }
            let keys = files::read_trimmed(class.join(&name).join("device/capabilities/key"));
            if !keys.is_ok_and(|text| has_key(&text, KEY_POWER)) {
                continue;
            }
            let Ok(device) = File::open(Path::new("/dev/input").join(&name)) else {
                continue;
            };
            let pressed = pressed.clone();
            let thread = std::thread::Builder::new()
                .name(format!("power {name}"))
                .stack_size(64 << 10)
                .spawn(move || follow(device, pressed));
            match thread {
                Ok(_) => drop(self.0.insert(name)),
                Err(error) => say!("power button {name}: {error}"),
            }
        }
    }
}

/// Reads a bitmap as /sys gives it: words in hex, the highest first.
fn has_key(text: &str, key: usize) -> bool {
    let bits = usize::BITS as usize;
    text.split_ascii_whitespace()
        .rev()
        .nth(key / bits)
        .and_then(|word| usize::from_str_radix(word, 16).ok())
        .is_some_and(|word| word >> (key % bits) & 1 == 1)
}

/// Whether an event is a press of the power key: type, code and value are its last eight bytes.
fn is_press(event: &[u8; EVENT_BYTES]) -> bool {
    let at = EVENT_BYTES - 8;
    let kind = u16::from_ne_bytes([event[at], event[at + 1]]);
    let code = u16::from_ne_bytes([event[at + 2], event[at + 3]]);
    let value = i32::from_ne_bytes([event[at + 4], event[at + 5], event[at + 6], event[at + 7]]);
    kind == EV_KEY && usize::from(code) == KEY_POWER && value == 1
}

fn follow(mut device: File, mut pressed: impl FnMut()) {
    let mut event = [0; EVENT_BYTES];
    // Ends with ENODEV when the device goes.
    while device.read_exact(&mut event).is_ok() {
        if is_press(&event) {
            pressed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_and_events() {
        // As /sys shows an ACPI power button on 64 bits.
        assert!(has_key("10000000000000 0", KEY_POWER));
        assert!(!has_key("10000000000000", KEY_POWER));
        assert!(!has_key("", KEY_POWER) && !has_key("zz 0", KEY_POWER));
        let mut event = [0; EVENT_BYTES];
        let at = EVENT_BYTES - 8;
        event[at..].copy_from_slice(&[1, 0, 116, 0, 1, 0, 0, 0]);
        assert!(is_press(&event));
        event[at + 4] = 0;
        assert!(!is_press(&event));
    }
}
