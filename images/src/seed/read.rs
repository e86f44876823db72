//! From a tree of YAML to typed values: types say what they take ([`Read::SHAPE`]) and
//! read it, faults are collected with their places, and the reading goes on.
//!
//! [`mapping!`] makes a type of a table of keys. The table is what is read, what
//! the JSON schema says and what `docs/seed.md` lists, so they cannot drift apart.

use std::ops::Deref;

use super::finding::{Finding, Place, Severity};
use super::shape::{Fate, Key, Other, Shape, Text};
use super::yaml::{Node, Style, Value};
use crate::near::near_miss;

/// A type that reads itself from a node.
pub trait Read: Sized {
    /// What it takes.
    const SHAPE: &'static Shape;

    /// Reads it; `None` once a fault has been reported.
    fn read(node: &Node, cx: &mut Cx) -> Option<Self>;
}

/// A type that is read from a scalar's text.
pub trait Word: Sized {
    /// What it takes.
    const TEXT: Text;

    /// Checks the text. The error goes after the text itself, or alone where that is secret.
    fn parse(text: &str) -> Result<Self, String>;
}

/// A value, where it stands and as what.
#[derive(Clone)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its place and key.
    pub spot: Spot,
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Where something stands, and as what.
#[derive(Clone)]
pub struct Spot {
    place: Place,
    key: String,
    meaning: Option<&'static str>,
}

/// Values of the author's own keys, in the order of the text.
pub type Map<T> = Vec<(At<String>, At<T>)>;

/// What is known while reading: findings so far, and the way from the top.
pub struct Cx {
    findings: Vec<Finding>,
    path: Vec<(String, Option<&'static str>)>,
}

impl Cx {
    pub fn new() -> Self {
        Self {
            findings: Vec::new(),
            path: Vec::new(),
        }
    }

    /// All findings, in the order of the text.
    pub fn finish(mut self) -> Vec<Finding> {
        self.findings.sort_by_key(|finding| finding.place);
        self.findings
    }

    /// Adds a finding that was made elsewhere.
    pub fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// A reason to refuse the seed.
    pub fn error(&mut self, spot: &Spot, message: impl Into<String>) {
        self.report(Severity::Error, spot, message.into());
    }

    /// Something that may not be what the author expects.
    pub fn warn(&mut self, spot: &Spot, message: impl Into<String>) {
        self.report(Severity::Warning, spot, message.into());
    }

    /// Reports that a key is missing, unless it is there and has been reported already.
    pub fn lacks(&mut self, parent: &Spot, key: &str, hint: &str) {
        if !self.is_reported(parent, key) {
            self.error(parent, format!("lacks `{key}`{hint}"));
        }
    }

    /// Whether a key below `parent` is there and wrong.
    pub fn is_reported(&self, parent: &Spot, key: &str) -> bool {
        let path = match parent.key.as_str() {
            "" => key.to_owned(),
            parent => format!("{parent}.{key}"),
        };
        let wrong = |f: &Finding| f.severity == Severity::Error && f.key.starts_with(&path);
        self.findings.iter().any(wrong)
    }

    fn report(&mut self, severity: Severity, spot: &Spot, message: String) {
        self.findings.push(Finding {
            severity,
            place: spot.place,
            key: spot.key.clone(),
            message,
            meaning: spot.meaning,
        });
    }

    /// The spot of a node that is being read.
    pub fn spot(&self, node: &Node) -> Spot {
        self.spot_at(node.place)
    }

    fn spot_at(&self, place: Place) -> Spot {
        let mut key = String::new();
        for (step, _) in &self.path {
            if !key.is_empty() && !step.starts_with('[') {
                key.push('.');
            }
            key.push_str(step);
        }
        Spot {
            place,
            key,
            meaning: self.path.iter().rev().find_map(|(_, meaning)| *meaning),
        }
    }

    /// Reports a node of the wrong kind.
    pub fn wrong<T>(&mut self, node: &Node, wanted: &str) -> Option<T> {
        let spot = self.spot(node);
        self.error(
            &spot,
            format!("{} stands here; {wanted} is wanted", node.kind()),
        );
        None
    }

    /// Reads below a step of the path.
    fn below<T>(
        &mut self,
        step: String,
        meaning: Option<&'static str>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.path.push((step, meaning));
        let value = read(self);
        self.path.pop();
        value
    }

    /// Reads a value with its spot.
    pub fn at<T: Read>(&mut self, node: &Node) -> Option<At<T>> {
        let spot = self.spot(node);
        T::read(node, self).map(|value| At { value, spot })
    }

    /// Reads a mapping with known keys; `take` gets those that have a value.
    pub fn mapping(
        &mut self,
        node: &Node,
        keys: &'static [Key],
        others: &'static [Other],
        mut take: impl FnMut(&mut Self, &'static str, &Node),
    ) -> Option<()> {
        let entries = match &node.value {
            Value::Map(entries) => entries,
            // A key without a value is as good as none.
            Value::Null => return Some(()),
            _ => return self.wrong(node, "a mapping (key: value)"),
        };
        for (name, value) in entries {
            if let Some(key) = keys.iter().find(|key| key.name == name.name) {
                if !matches!(value.value, Value::Null) {
                    self.below(key.name.to_owned(), Some(key.meaning), |cx| {
                        take(cx, key.name, value);
                    });
                }
                continue;
            }
            let other = others.iter().find(|other| other.name == name.name);
            let step = match other {
                Some(other) => other.name.to_owned(),
                None => shown_key(&name.name),
            };
            let spot = self.below(step, None, |cx| Spot {
                meaning: None,
                ..cx.spot_at(name.place)
            });
            match other {
                Some(Other {
                    fate: Fate::Granted,
                    ..
                }) => {}
                Some(Other {
                    fate: Fate::Ignored,
                    why,
                    ..
                }) => {
                    self.warn(&spot, format!("has no effect here, because {why}"));
                }
                Some(Other {
                    fate: Fate::Refused,
                    why,
                    ..
                }) => {
                    self.error(&spot, format!("is refused, because {why}"));
                }
                None => {
                    let near = near_miss(&name.name, keys.iter().map(|key| key.name));
                    let near = near.and_then(|near| keys.iter().find(|key| key.name == near));
                    self.warn(
                        &spot,
                        match near {
                            Some(near) => format!(
                                "unknown key, it has no effect; did you mean `{}`? ({})",
                                near.name, near.meaning
                            ),
                            None => "unknown key, it has no effect".into(),
                        },
                    );
                }
            }
        }
        Some(())
    }
}

/// A key as it may be shown: one that doesn't look like a key may be a piece of a secret.
pub fn shown_key(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/ *<".contains(&b);
    if !name.is_empty() && name.len() <= 40 && name.bytes().all(plain) {
        name.to_owned()
    } else {
        "(a key that is not shown)".into()
    }
}

impl<T: Word> Read for T {
    const SHAPE: &'static Shape = &Shape::Text(&T::TEXT);

    fn read(node: &Node, cx: &mut Cx) -> Option<Self> {
        let text = match &node.value {
            Value::Scalar { text, .. } => text,
            Value::Null => "",
            _ => return cx.wrong(node, T::TEXT.what),
        };
        match T::parse(text) {
            Ok(value) => Some(value),
            Err(why) => {
                let shown = !T::TEXT.secret && text.len() <= 80 && !text.contains("-----");
                let message = match shown {
                    true => format!("{text:?} {why}"),
                    false => format!("the value {why}"),
                };
                let spot = cx.spot(node);
                cx.error(&spot, message);
                None
            }
        }
    }
}

impl Read for bool {
    const SHAPE: &'static Shape = &Shape::Bool;

    fn read(node: &Node, cx: &mut Cx) -> Option<Self> {
        // Those of YAML 1.1, which cloud-init and netplan read.
        if let Value::Scalar {
            text,
            style: Style::Plain,
        } = &node.value
        {
            match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => return Some(true),
                "false" | "no" | "off" => return Some(false),
                _ => {}
            }
        }
        cx.wrong(node, "true or false, without quotes,")
    }
}

/// A whole number between `MIN` and `MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Read for Number<MIN, MAX> {
    const SHAPE: &'static Shape = &Shape::Integer { min: MIN, max: MAX };

    fn read(node: &Node, cx: &mut Cx) -> Option<Self> {
        let text = match &node.value {
            Value::Scalar {
                text,
                style: Style::Plain,
            } => text,
            _ => return cx.wrong(node, "a number, without quotes,"),
        };
        match text.parse::<u64>() {
            Ok(number) if (MIN..=MAX).contains(&number) => Some(Self(number)),
            _ => {
                let spot = cx.spot(node);
                let message = format!("{} is no whole number from {MIN} to {MAX}", shown_key(text));
                cx.error(&spot, message);
                None
            }
        }
    }
}

impl<T: Read> Read for Vec<At<T>> {
    const SHAPE: &'static Shape = &Shape::List(T::SHAPE);

    fn read(node: &Node, cx: &mut Cx) -> Option<Self> {
        let Value::List(items) = &node.value else {
            return cx.wrong(node, "a list");
        };
        Some(items_of(items, cx))
    }
}

fn items_of<T: Read>(items: &[Node], cx: &mut Cx) -> Vec<At<T>> {
    let read = |(index, item)| cx.below(format!("[{index}]"), None, |cx| cx.at(item));
    items.iter().enumerate().filter_map(read).collect()
}

/// A list, or one entry by itself.
pub struct OneOrMany<T>(pub Vec<At<T>>);

impl<T: Read> Read for OneOrMany<T> {
    const SHAPE: &'static Shape = &Shape::OneOrMany(T::SHAPE);

    fn read(node: &Node, cx: &mut Cx) -> Option<Self> {
        Some(Self(match &node.value {
            Value::List(items) => items_of(items, cx),
            _ => vec![cx.at(node)?],
        }))
    }
}

/// What the author's own keys are.
pub trait Naming {
    /// One word: `id`, `label`.
    const OF: &'static str;
}

/// A mapping with the author's own keys.
pub struct MapOf<N, T> {
    /// In the order of the text.
    pub entries: Map<T>,
    named: std::marker::PhantomData<N>,
}

impl<N: Naming, T: Read> Read for MapOf<N, T> {
    const SHAPE: &'static Shape = &Shape::MapOf {
        of: N::OF,
        value: T::SHAPE,
    };

    fn read(node: &Node, cx: &mut Cx) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            return cx.wrong(node, "a mapping (name: value)");
        };
        let mut all = Vec::new();
        for (key, value) in entries {
            let entry = cx.below(shown_key(&key.name), None, |cx| {
                let key = At {
                    value: key.name.clone(),
                    spot: cx.spot_at(key.place),
                };
                cx.at(value).map(|value| (key, value))
            });
            all.extend(entry);
        }
        Some(Self {
            entries: all,
            named: std::marker::PhantomData,
        })
    }
}

/// Anything; taken and not looked into.
pub struct Anything;

impl Read for Anything {
    const SHAPE: &'static Shape = &Shape::Any;

    fn read(_: &Node, _: &mut Cx) -> Option<Self> {
        Some(Self)
    }
}

/// A type that reads a mapping with known keys; each field is an `Option<At<_>>`.
/// `others` are keys that do nothing here, with their fate and the reason.
macro_rules! mapping {
    (
        $(#[$doc:meta])*
        struct $name:ident {
            $($key:literal => $field:ident: $type:ty, $meaning:literal;)*
        }
        $(others { $($fate:ident $why:expr => [$($other:literal),* $(,)?];)* })?
    ) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $name {
            $(pub(super) $field: Option<$crate::seed::read::At<$type>>,)*
        }

        impl $name {
            const KEYS: &'static [$crate::seed::shape::Key] = &[
                $($crate::seed::shape::Key {
                    name: $key,
                    shape: <$type as $crate::seed::read::Read>::SHAPE,
                    meaning: $meaning,
                },)*
            ];
            const OTHERS: &'static [$crate::seed::shape::Other] = &[
                $($($($crate::seed::shape::Other {
                    name: $other,
                    fate: $crate::seed::shape::Fate::$fate,
                    why: $why,
                },)*)*)?
            ];
        }

        impl $crate::seed::read::Read for $name {
            const SHAPE: &'static $crate::seed::shape::Shape = &$crate::seed::shape::Shape::Mapping {
                keys: Self::KEYS,
                others: Self::OTHERS,
            };

            fn read(
                node: &$crate::seed::yaml::Node,
                cx: &mut $crate::seed::read::Cx,
            ) -> Option<Self> {
                let mut all = Self::default();
                cx.mapping(node, Self::KEYS, Self::OTHERS, |cx, key, node| match key {
                    $($key => all.$field = cx.at(node),)*
                    _ => {}
                })?;
                Some(all)
            }
        }
    };
}
pub(super) use mapping;
