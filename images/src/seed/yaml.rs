//! YAML as a tree that knows the places and the original text of its scalars.
//!
//! Types are not guessed here: whether `0644` or `yes` is a text, a number or a
//! truth is what the key's own type says. Anchors, aliases and merge keys (`<<`) are
//! resolved as PyYAML does for cloud-init, within a limit against texts that unfold
//! to gigabytes. Source: YAML 1.2.2; `<<`: the YAML 1.1 type repository.

use std::collections::BTreeMap;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, Tag};

use super::finding::{Document, Finding, Place, Severity};

/// Largest text taken, in bytes. PEMs and keys are the bulk of a seed.
pub const TEXT_LIMIT: usize = 1 << 20;
/// Deepest nesting.
const DEPTH_LIMIT: usize = 64;
/// Nodes that a text may unfold to.
const NODE_LIMIT: usize = 20_000;
/// Bytes of scalars that a text may unfold to.
const UNFOLDED_LIMIT: usize = 4 * TEXT_LIMIT;

/// What `!!` stands for.
const CORE: &str = "tag:yaml.org,2002:";

/// A node of the tree.
#[derive(Clone)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar's text.
    Scalar {
        /// After escapes and folding.
        text: String,
        /// How it was written.
        style: Style,
    },
    /// `- a` or `[a]`.
    List(Vec<Node>),
    /// `a: b` or `{a: b}`.
    Map(Vec<(Key, Node)>),
}

/// How a scalar was written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: a number or a truth where one is wanted.
    Plain,
    /// Quoted or as a block: a text.
    Quoted,
    /// With the tag `!!binary`: base64.
    Binary,
}

/// A key of a mapping.
#[derive(Clone)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub place: Place,
}

impl Node {
    /// "a list" and so on, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "empty",
            Value::Scalar { .. } => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// A collection that isn't closed yet.
enum Open {
    List(Vec<Node>),
    Map(Vec<(Key, Node)>, Option<Key>),
}

struct Composer {
    document: Document,
    open: Vec<(Place, usize, Open)>,
    anchors: BTreeMap<usize, (Node, Size)>,
    root: Option<Node>,
    unfolded: Size,
}

#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

/// Reads the one document of a text.
///
/// # Errors
/// What the first fault of the text is. The texts around it are not shown: they may
/// be secrets.
pub fn parse(text: &str, document: Document) -> Result<Node, Finding> {
    if text.len() > TEXT_LIMIT {
        let message = format!("longer than {TEXT_LIMIT} bytes");
        return Err(fault(Place::whole(document), message));
    }
    let mut options = Options::default();
    options.flow_nesting_limit = DEPTH_LIMIT;
    options.block_nesting_limit = DEPTH_LIMIT;
    options.emit_comments = false;
    let mut composer = Composer {
        document,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        root: None,
        unfolded: Size::default(),
    };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let place = place(document, error.marker().line(), error.marker().col());
            fault(place, syntax(&error))
        })?;
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                let place = place(document, span.start.line(), span.start.col());
                return Err(fault(
                    place,
                    "a second YAML document begins here; one is wanted",
                ));
            }
        }
        composer.take(event, span)?;
    }
    Ok(composer.root.unwrap_or(Node {
        place: place(document, 1, 0),
        value: Value::Null,
    }))
}

/// The parser's words, unless they could quote the text.
fn syntax(error: &granit_parser::ScanError) -> String {
    let words = error.info();
    if words.contains(['"', '\'', '`', '\n']) || words.len() > 120 {
        "not valid YAML from here on; check indentation, quotes and colons".into()
    } else {
        format!("not valid YAML: {words}")
    }
}

fn place(document: Document, line: usize, column: usize) -> Place {
    Place {
        document,
        line,
        column: column + 1,
    }
}

fn fault(place: Place, message: impl Into<String>) -> Finding {
    Finding {
        severity: Severity::Error,
        place,
        key: String::new(),
        message: message.into(),
        meaning: None,
    }
}

impl Composer {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Finding> {
        let place = place(self.document, span.start.line(), span.start.col());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref(), place)?;
                self.grow(place, 1, text.len())?;
                self.add(Node { place, value }, anchor, text.len())
            }
            Event::SequenceStart(_, anchor, _) => self.begin(place, anchor, Open::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.begin(place, anchor, Open::Map(Vec::new(), None))
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some((mut node, size)) => {
                    self.grow(place, size.nodes, size.bytes)?;
                    // A mistake is best mended where the alias stands, but inner places stay.
                    node.place = place;
                    self.add(node, 0, size.bytes)
                }
                None => Err(fault(
                    place,
                    "an alias of something that isn't complete here",
                )),
            },
            _ => Ok(()),
        }
    }

    fn grow(&mut self, place: Place, nodes: usize, bytes: usize) -> Result<(), Finding> {
        self.unfolded.nodes += nodes;
        self.unfolded.bytes += bytes;
        if self.unfolded.nodes > NODE_LIMIT || self.unfolded.bytes > UNFOLDED_LIMIT {
            return Err(fault(place, "too large once its aliases are unfolded"));
        }
        Ok(())
    }

    fn begin(&mut self, place: Place, anchor: usize, open: Open) -> Result<(), Finding> {
        self.grow(place, 1, 0)?;
        if let Some((_, _, Open::Map(_, None))) = self.open.last() {
            return Err(fault(place, "a key must be a single word"));
        }
        if self.open.len() >= DEPTH_LIMIT {
            return Err(fault(place, "nested too deeply"));
        }
        self.open.push((place, anchor, open));
        Ok(())
    }

    fn end(&mut self) -> Result<(), Finding> {
        let Some((place, anchor, open)) = self.open.pop() else {
            return Ok(());
        };
        let value = match open {
            Open::List(items) => Value::List(items),
            Open::Map(entries, _) => Value::Map(merged(entries)?),
        };
        self.add(Node { place, value }, anchor, 0)
    }

    fn add(&mut self, node: Node, anchor: usize, bytes: usize) -> Result<(), Finding> {
        if anchor != 0 {
            let size = size(&node, bytes);
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((_, _, Open::List(items))) => items.push(node),
            Some((_, _, Open::Map(entries, key))) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let name = match node.value {
                        Value::Scalar { text, .. } => text,
                        Value::Null => "null".into(),
                        _ => return Err(fault(node.place, "a key must be a single word")),
                    };
                    let first = entries.iter().find(|(k, _)| k.name == name && name != "<<");
                    if let Some((first, _)) = first {
                        let name = super::read::shown_key(&name);
                        let message =
                            format!("{name} is given twice, first in line {}", first.place.line);
                        return Err(fault(node.place, message));
                    }
                    *key = Some(Key {
                        name,
                        place: node.place,
                    });
                }
            },
        }
        Ok(())
    }
}

fn size(node: &Node, bytes: usize) -> Size {
    let add = |sum: Size, more: Size| Size {
        nodes: sum.nodes + more.nodes,
        bytes: sum.bytes + more.bytes,
    };
    let own = Size { nodes: 1, bytes: 0 };
    match &node.value {
        Value::Null => own,
        Value::Scalar { .. } => Size { nodes: 1, bytes },
        Value::List(items) => items.iter().map(|n| size(n, text_len(n))).fold(own, add),
        Value::Map(entries) => entries
            .iter()
            .map(|(_, n)| size(n, text_len(n)))
            .fold(own, add),
    }
}

fn text_len(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { text, .. } => text.len(),
        _ => 0,
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    place: Place,
) -> Result<Value, Finding> {
    let mut written = match style {
        ScalarStyle::Plain => Style::Plain,
        _ => Style::Quoted,
    };
    match tag.map(|tag| (tag.handle(), tag.suffix())) {
        None => {}
        // A text with ! alone is a text.
        Some((CORE, "str") | ("" | "!", "" | "!")) => written = Style::Quoted,
        Some((CORE, "binary")) => written = Style::Binary,
        Some((CORE, _)) => {}
        Some(_) => return Err(fault(place, "a tag (!) that has no meaning here")),
    }
    let null = written == Style::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL");
    Ok(if null {
        Value::Null
    } else {
        Value::Scalar {
            text: text.to_owned(),
            style: written,
        }
    })
}

/// Puts the entries of mappings under `<<` behind the mapping's own, which win.
fn merged(entries: Vec<(Key, Node)>) -> Result<Vec<(Key, Node)>, Finding> {
    let (merges, mut own): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|(key, _)| key.name == "<<");
    for (key, node) in merges {
        let sources = match node.value {
            Value::List(items) => items,
            _ => vec![node],
        };
        for source in sources {
            let Value::Map(entries) = source.value else {
                return Err(fault(key.place, "<< merges mappings only"));
            };
            for entry in entries {
                if !own.iter().any(|(k, _)| k.name == entry.0.name) {
                    own.push(entry);
                }
            }
        }
    }
    Ok(own)
}
