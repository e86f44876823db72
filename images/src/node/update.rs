//! What the node API says and is told of an update: `/v1/update`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::seed::TimeOfDay;
use crate::text::as_text;

/// The protocol in `Upgrade:` of a bundle that is pushed: [`crate::bundle::wire`], whose texts
/// are JSON of [`Update`].
pub const PUSH_PROTOCOL: &str = "slipway-bundle";

/// When the machine reboots into a version that has been staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reboot {
    /// At once.
    #[default]
    Now,
    /// When it is that time, by the node's clock and time zone.
    At(TimeOfDay),
    /// When somebody asks for it.
    Never,
}

/// A text that says no time to reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is none of now, never and HH:MM")]
pub struct NoReboot;

impl fmt::Display for Reboot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::At(time) => time.fmt(f),
            Self::Never => f.write_str("never"),
        }
    }
}

impl FromStr for Reboot {
    type Err = NoReboot;

    fn from_str(text: &str) -> Result<Self, NoReboot> {
        match text {
            "now" => Ok(Self::Now),
            "never" => Ok(Self::Never),
            time => time.parse().map(Self::At).map_err(|_| NoReboot),
        }
    }
}

as_text!(Reboot);

/// How an update is to be done, wherever it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", default)]
pub struct How {
    /// When to reboot into it: `now`, `never` or `HH:MM`.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub reboot: Reboot,
    /// Take a release that is older than what runs.
    pub allow_downgrade: bool,
    /// Take a version that has failed here before.
    pub force: bool,
}

/// What the node is to fetch: `POST /v1/update`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct UpdateOrder {
    /// Where the bundle is: http:// or https://.
    pub url: String,
    /// How it is to be done.
    #[serde(flatten)]
    pub how: How,
}

/// How far an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum UpdateState {
    /// There was none since the boot.
    #[default]
    None,
    /// It is being done.
    Running,
    /// The next boot takes the version.
    Staged,
    /// It failed; the note says why.
    Failed,
    /// Somebody has stopped it.
    Stopped,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum UpdateStep {
    /// The bundle's signed head is fetched and checked.
    Check,
    /// The datastore is kept.
    Snapshot,
    /// Both slots are compared with the bundle.
    Compare,
    /// What is missing is fetched and written.
    Write,
    /// What was written is read back.
    Verify,
}

impl UpdateStep {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Check => "checking the bundle",
            Self::Snapshot => "keeping the datastore",
            Self::Compare => "comparing the slots",
            Self::Write => "fetching and writing",
            Self::Verify => "reading it back",
        }
    }
}

/// The update that is being done, or the last one since the boot: `GET /v1/update`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", default)]
pub struct Update {
    /// How far it is.
    pub state: UpdateState,
    /// Where it comes from: a URL without what may be secret in it, or who pushes it.
    pub from: Option<String>,
    /// The version that it brings, once that is known.
    pub version: Option<String>,
    /// When the machine reboots into it: `now`, `never` or `HH:MM`.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub reboot: Option<Reboot>,
    /// What is being done.
    pub step: Option<UpdateStep>,
    /// Bytes of the slot that are through in this step.
    pub done: u64,
    /// Of so many.
    pub total: u64,
    /// Bytes of the bundle that were fetched.
    pub fetched: u64,
    /// Of so many, as far as it is known; the rest is there already.
    pub to_fetch: u64,
    /// Why it failed, or what it waits for.
    pub note: Option<String>,
    /// A version that an update before this one has staged, and that the node still reboots
    /// into by itself.
    pub waiting: Option<Waiting>,
    /// The channel; none if the seed has none.
    pub channel: Option<Channel>,
}

/// A staged version that waits for its first boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Waiting {
    /// Which one.
    pub version: String,
    /// When the machine reboots into it: `now` or `HH:MM`.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub reboot: Reboot,
}

/// What is known of the channel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", default)]
pub struct Channel {
    /// Its URL.
    pub url: String,
    /// When it was looked at last, in seconds since 1970-01-01 UTC by the node's clock.
    pub looked: Option<u64>,
    /// The version that it offers.
    pub offers: Option<String>,
    /// What came of it, in one line.
    pub note: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_reboot_has_one_form() {
        for text in ["now", "never", "03:30"] {
            assert_eq!(text.parse::<Reboot>().unwrap().to_string(), text);
        }
        for wrong in ["", "Now", "3:30", "24:00", "later"] {
            assert_eq!(wrong.parse::<Reboot>(), Err(NoReboot), "{wrong}");
        }
    }

    #[test]
    fn an_order_says_what_differs_from_the_usual() {
        let order: UpdateOrder = serde_json::from_str(r#"{"url": "http://h/x.slip"}"#).unwrap();
        assert_eq!(order.how, How::default());
        let text = r#"{"url": "u", "reboot": "02:00", "allow-downgrade": true, "force": true}"#;
        let order: UpdateOrder = serde_json::from_str(text).unwrap();
        assert!(order.how.allow_downgrade && order.how.force);
        assert_eq!(order.how.reboot.to_string(), "02:00");
        let again = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<UpdateOrder>(&again).unwrap(), order);
        let wrong = r#"{"url": "u", "reboot": "tomorrow"}"#;
        assert!(serde_json::from_str::<UpdateOrder>(wrong).is_err());
    }
}
