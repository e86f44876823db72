//! How wireless interfaces stand, from what happens to them, and in words.

use super::control::Event;

/// How an interface stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// wpa_supplicant doesn't take it.
    Refused,
    /// It looks for its networks.
    Searching,
    /// None of them is in reach.
    NoneInReach,
    /// It has joined the network of this number.
    Joined(usize),
    /// It had joined it.
    Lost(usize),
    /// The network doesn't take the passphrase; with WPA3 it isn't said which one.
    WrongKey(Option<usize>),
}

impl Standing {
    /// Takes in what has happened. What is wrong with a passphrase is kept until a network is
    /// joined: the tries after it only find that there is nothing else.
    pub fn follow(&mut self, event: Event) {
        *self = match (*self, event) {
            (_, Event::Joined(number)) => Self::Joined(number),
            (_, Event::WrongKey(number)) => Self::WrongKey(Some(number)),
            (Self::WrongKey(number), Event::Rejected) => Self::WrongKey(number),
            (_, Event::Rejected) => Self::WrongKey(None),
            (Self::WrongKey(None), Event::Resting(number)) => Self::WrongKey(Some(number)),
            (Self::Joined(number), Event::Left) => Self::Lost(number),
            (Self::Searching, Event::NotFound) => Self::NoneInReach,
            (other, Event::Left | Event::NotFound | Event::Resting(_)) => other,
        };
    }

    fn in_words(self, name: &str, ssids: &[String]) -> String {
        let network = |number: usize| match ssids.get(number) {
            Some(ssid) => format!("{ssid:?}"),
            None => format!("network {number}"),
        };
        match self {
            Self::Refused => format!(
                "{name} can't be used: `slipway node logs wifi` has wpa_supplicant's reason"
            ),
            Self::Searching => format!("{name} looks for a network"),
            Self::NoneInReach => {
                let all: Vec<_> = ssids.iter().map(|ssid| format!("{ssid:?}")).collect();
                format!(
                    "{name} finds no network of network-config: {}",
                    all.join(", ")
                )
            }
            Self::Joined(number) => format!("{name} has joined {}", network(number)),
            Self::Lost(number) => format!("{name} has lost {}", network(number)),
            Self::WrongKey(Some(number)) => format!(
                "{name} isn't let into {}: the passphrase in network-config is wrong",
                network(number)
            ),
            Self::WrongKey(None) => {
                format!("{name} isn't let in: a WPA3 passphrase in network-config is wrong")
            }
        }
    }
}

/// All interfaces in a line, which begins as the status page wants trouble to begin.
pub fn in_words<'a>(all: impl Iterator<Item = (&'a str, &'a [String], Standing)>) -> String {
    let mut degraded = "";
    let mut words = Vec::new();
    for (name, ssids, standing) in all {
        if matches!(standing, Standing::Refused | Standing::WrongKey(_)) {
            degraded = "degraded: ";
        }
        words.push(standing.in_words(name, ssids));
    }
    format!("{degraded}{}", words.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(events: &[Event]) -> Standing {
        let mut standing = Standing::Searching;
        events.iter().for_each(|event| standing.follow(*event));
        standing
    }

    #[test]
    fn a_wrong_passphrase_is_said_until_a_network_is_joined() {
        use Event::{Joined, Left, NotFound, Rejected, Resting, WrongKey};
        let wrong = [Left, WrongKey(1), Left, NotFound, Left];
        assert_eq!(after(&wrong), Standing::WrongKey(Some(1)));
        assert_eq!(after(&[NotFound, Rejected]), Standing::WrongKey(None));
        let sae = [Rejected, Left, Rejected, Resting(1), Rejected, Resting(0)];
        assert_eq!(after(&sae), Standing::WrongKey(Some(1)));
        assert_eq!(after(&[Rejected, Joined(0)]), Standing::Joined(0));
        assert_eq!(after(&[Joined(0), Left, NotFound]), Standing::Lost(0));
        assert_eq!(after(&[NotFound, Left]), Standing::NoneInReach);
    }

    #[test]
    fn in_words_that_name_the_network() {
        let ssids = ["home".to_owned(), "a\"\u{1b}b".to_owned()];
        let say = |standing| in_words([("wlan0", &ssids[..], standing)].into_iter());
        assert_eq!(say(Standing::Joined(0)), "wlan0 has joined \"home\"");
        assert_eq!(
            say(Standing::WrongKey(Some(1))),
            "degraded: wlan0 isn't let into \"a\\\"\\u{1b}b\": the passphrase in network-config is wrong"
        );
        assert_eq!(
            say(Standing::NoneInReach),
            "wlan0 finds no network of network-config: \"home\", \"a\\\"\\u{1b}b\""
        );
        let two = [
            ("wlan0", &ssids[..], Standing::Lost(0)),
            ("wlan1", &ssids[..], Standing::Refused),
        ];
        assert_eq!(
            in_words(two.into_iter()),
            "degraded: wlan0 has lost \"home\"; wlan1 can't be used: \
             `slipway node logs wifi` has wpa_supplicant's reason"
        );
        assert_eq!(in_words(std::iter::empty()), "");
    }
}
