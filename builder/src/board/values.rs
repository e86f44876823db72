//! Single values of a board's TOML, checked where they are read, so that an
//! error has the value's place in the file.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Reads text and what it means. The check runs inside of the deserializer, which
/// is how its error gets the place of this value instead of the table's or list's.
pub(crate) fn checked<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    check: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Visitor<F>(F);
    impl<T, F: FnOnce(&str) -> Result<T, String>> de::Visitor<'_> for Visitor<F> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.0)(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Visitor(check))
}

macro_rules! text_value {
    ($(#[$doc:meta])* $name:ident, $check:expr, $why:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub(crate) struct $name(pub String);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let check: fn(&str) -> bool = $check;
                checked(deserializer, |text| match check(text) {
                    true => Ok(Self(text.to_owned())),
                    false => Err(format!("`{text}` {}", $why)),
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_value!(
    /// A Debian package (Debian Policy, 5.6.1).
    PackageName,
    |t| t.len() > 1
        && t.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b)),
    "is not a Debian package's name"
);

text_value!(
    /// A built-in key, or a file beside the board's TOML.
    KeyName,
    |t| !t.is_empty() && !t.contains('\0'),
    "is not a key's name"
);

text_value!(
    /// One word of the kernel's command line.
    Word,
    |t| !t.is_empty() && t.chars().all(|c| c.is_ascii_graphic()),
    "is not one word; the kernel's command line is written as a list of words"
);

text_value!(
    /// A line of U-Boot's script.
    Command,
    |t| !t.is_empty() && t.chars().all(|c| c.is_ascii_graphic() || c == ' '),
    "is not one line of ASCII for U-Boot"
);

text_value!(
    /// A kernel module, by name (`-` and `_` are the same), or a glob.
    ModuleName,
    |t| !t.is_empty()
        && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-*?[]".contains(&b))
        && super::rules::Pattern::new(t).is_ok(),
    "is not a module's name"
);

/// A size; a number of whole MiB. In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Megabytes(pub u64);

impl<'de> Deserialize<'de> for Megabytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        checked(deserializer, |text| {
            parse_size(text)
                .map(Self)
                .ok_or_else(|| format!("`{text}` is not a size like \"512 MiB\" or \"2 GiB\""))
        })
    }
}

/// A place on a disk; a number of whole KiB. In bytes.
pub(super) fn kibibytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    checked(deserializer, |text| {
        let number = text.strip_suffix("KiB").map(str::trim_end);
        let number = number.and_then(|n| n.parse::<u64>().ok());
        let bytes = number.and_then(|n| n.checked_mul(1 << 10));
        bytes.ok_or_else(|| format!("`{text}` is not a place like \"128 KiB\""))
    })
}

/// `512 MiB`, `2GiB`: whole and not zero.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    (number > 0).then_some(())?;
    // 8 EiB and more aren't sizes of anything here.
    number.checked_mul(1 << shift).filter(|n| *n < 1 << 60)
}

/// A sysctl's value: text, or a number written as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sysctl(pub String);

impl<'de> Deserialize<'de> for Sysctl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Sysctl;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or text on one line")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Sysctl, E> {
                Ok(Sysctl(number.to_string()))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Sysctl, E> {
                if text.contains(['\n', '\0']) {
                    return Err(E::custom("a sysctl's value is one line"));
                }
                Ok(Sysctl(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("512 MiB"), Some(512 << 20));
        assert_eq!(parse_size("2GiB"), Some(2 << 30));
        for bad in [
            "",
            "512",
            "0 MiB",
            "1.5 GiB",
            "-1 MiB",
            "99999999999999999999 MiB",
            "16000000000 GiB",
            "1 MB",
        ] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
