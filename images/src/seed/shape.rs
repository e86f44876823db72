//! What a document may say, as tables: one source for the parser, the JSON schema
//! and the tables of `docs/seed.md`.

/// The form of a value.
#[derive(Debug)]
pub enum Shape {
    /// A scalar with rules of its own.
    Text(&'static Text),
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Integer {
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// A list.
    List(&'static Self),
    /// A list, or one entry by itself.
    OneOrMany(&'static Self),
    /// A mapping whose keys are the author's.
    MapOf {
        /// What the keys are, as `<this>` in paths.
        of: &'static str,
        /// Form of the values.
        value: &'static Self,
    },
    /// A mapping with known keys.
    Mapping {
        /// Keys that are read.
        keys: &'static [Key],
        /// Keys that are known from elsewhere and do nothing here.
        others: &'static [Other],
    },
    /// One of several forms.
    Either(&'static [&'static Self]),
    /// Anything; it isn't looked into.
    Any,
}

/// Rules of a scalar.
#[derive(Debug)]
pub struct Text {
    /// What it is, such as `IPv4 or IPv6 address`.
    pub what: &'static str,
    /// The only values, if they are few.
    pub choices: &'static [&'static str],
    /// Whether its value must not be shown.
    pub secret: bool,
}

/// A key that is read.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Form of its value.
    pub shape: &'static Shape,
    /// What it means, in a line.
    pub meaning: &'static str,
}

/// A key of cloud-init's or netplan's that does nothing here.
#[derive(Debug)]
pub struct Other {
    /// Its name.
    pub name: &'static str,
    /// What becomes of a document that has it.
    pub fate: Fate,
    /// Why.
    pub why: &'static str,
}

/// What becomes of a document with a key that does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// What it asks for is so anyway: nothing is said.
    Granted,
    /// It is warned of and skipped.
    Ignored,
    /// The seed is refused: going on would not be what its author meant.
    Refused,
}

/// A key with its path, for tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// `slipway.cluster.role`, `users[].name`, `ethernets.<id>.mtu`.
    pub path: String,
    /// The form of the value in words.
    pub form: String,
    /// What the key means, or why it does nothing.
    pub meaning: &'static str,
    /// What becomes of it; `None` for a key that is read.
    pub fate: Option<Fate>,
}

impl Shape {
    /// The form in a few words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Text(text) if !text.choices.is_empty() => {
                let quoted: Vec<_> = text.choices.iter().map(|c| format!("`{c}`")).collect();
                quoted.join(", ")
            }
            Self::Text(text) => text.what.to_owned(),
            Self::Bool => "`true`, `false`".into(),
            Self::Integer { min: 0, max } if *max == u64::MAX => "number".into(),
            Self::Integer { min, max } => format!("number, {min} to {max}"),
            Self::List(of) => format!("list: {}", of.words()),
            Self::OneOrMany(of) => format!("one or a list: {}", of.words()),
            Self::MapOf { of, value } => format!("mapping by {of}: {}", value.words()),
            Self::Mapping { .. } => "mapping".into(),
            Self::Either(forms) => {
                let words: Vec<_> = forms.iter().map(|form| form.words()).collect();
                words.join("; or ")
            }
            Self::Any => "anything".into(),
        }
    }

    /// All keys below, in the order of the tables.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.collect("", &mut rows);
        rows
    }

    fn collect(&self, path: &str, rows: &mut Vec<Row>) {
        match self {
            Self::List(of) | Self::OneOrMany(of) => of.collect(&format!("{path}[]"), rows),
            Self::MapOf { of, value } => value.collect(&format!("{path}.<{of}>"), rows),
            Self::Either(forms) => forms.iter().for_each(|form| form.collect(path, rows)),
            Self::Mapping { keys, others } => {
                let below = |name: &str| match path {
                    "" => name.to_owned(),
                    path => format!("{path}.{name}"),
                };
                for key in *keys {
                    let path = below(key.name);
                    rows.push(Row {
                        path: path.clone(),
                        form: key.shape.words(),
                        meaning: key.meaning,
                        fate: None,
                    });
                    key.shape.collect(&path, rows);
                }
                for other in *others {
                    rows.push(Row {
                        path: below(other.name),
                        form: String::new(),
                        meaning: other.why,
                        fate: Some(other.fate),
                    });
                }
            }
            Self::Text(_) | Self::Bool | Self::Integer { .. } | Self::Any => {}
        }
    }
}
