//! DNS messages as multicast DNS uses them (RFC 1035 section 4, RFC 6762 section 18).
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 2 | id; 0 in multicast |
//! | 2 | 2 | flags: 0x8000 response, 0x7800 opcode, 0x0400 authoritative, 0x0200 more follows, 0x000f error |
//! | 4, 6, 8, 10 | 2 each | number of questions, answers, authorities, additional records |
//! | 12 | | question: name, type 2, class 2 (0x8000: the answer may come by unicast) |
//! | | | record: name, type 2, class 2 (0x8000: the only one), time to live 4, length 2, data |
//! | name | | labels of a length (at most 63) and bytes; 0 ends it, 0xc000 + offset goes on earlier |

/// Largest message (RFC 6762 section 17).
pub const LARGEST: usize = 9000;
/// Messages made here fit into one Ethernet frame over either family.
const FIT: usize = 1400;
/// Questions and records that are read of one message: more than any honest one has.
const MOST: usize = 400;

/// Types of records.
pub mod kind {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Another name.
    pub const PTR: u16 = 12;
    /// Texts.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Host and port of a service.
    pub const SRV: u16 = 33;
    /// Which types a name has.
    pub const NSEC: u16 = 47;
    /// In questions: all.
    pub const ANY: u16 = 255;
}

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const ERROR: u16 = 0x000f;
/// Of a class: unicast is welcome in a question, no other record like it in an answer.
const TOP: u16 = 0x8000;
/// The Internet's class.
pub const IN: u16 = 1;

/// A name in the form on the wire, uncompressed. Names are equal whatever the case of their
/// letters; lengths of labels are below those of letters, so bytes can be compared.
#[derive(Debug, Clone)]
pub struct Name(Vec<u8>);

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Name {
    /// Of labels, without the root. What is too long for a label is cut.
    #[must_use]
    pub fn of(labels: &[&str]) -> Self {
        let mut wire = Vec::new();
        for label in labels {
            let bytes = label.as_bytes().get(..63).unwrap_or(label.as_bytes());
            wire.push(bytes.len() as u8);
            wire.extend_from_slice(bytes);
        }
        wire.push(0);
        Self(wire)
    }

    /// As on the wire.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Of which name.
    pub name: Name,
    /// Which type.
    pub kind: u16,
    /// Of which class.
    pub class: u16,
    /// The asker takes an answer by unicast.
    pub unicast: bool,
}

/// A record. Names in its data are uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: Name,
    /// Its type.
    pub kind: u16,
    /// Its class.
    pub class: u16,
    /// No other host has records of this name and type.
    pub unique: bool,
    /// For how many seconds it holds; 0: no longer.
    pub ttl: u32,
    /// Its data.
    pub data: Vec<u8>,
}

impl Record {
    /// Whether it says the same, for however long.
    #[must_use]
    pub fn says(&self, other: &Self) -> bool {
        let names = matches!(self.kind, kind::PTR | kind::SRV);
        self.kind == other.kind
            && self.name == other.name
            && match names {
                // Their data ends with a name.
                true => self.data.eq_ignore_ascii_case(&other.data),
                false => self.data == other.data,
            }
    }
}

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Of a question by unicast, and of its answer.
    pub id: u16,
    /// An answer rather than a question.
    pub response: bool,
    /// More known answers follow.
    pub truncated: bool,
    /// What is asked.
    pub questions: Vec<Question>,
    /// Answers, or what an asker knows already.
    pub answers: Vec<Record>,
    /// What an asker wants to have for itself.
    pub authorities: Vec<Record>,
    /// What goes with the answers.
    pub additional: Vec<Record>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn number(&mut self) -> Option<u16> {
        let bytes = self.bytes.get(self.at..self.at + 2)?;
        self.at += 2;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u32> {
        Some(u32::from(self.number()?) << 16 | u32::from(self.number()?))
    }

    fn name(&mut self) -> Option<Name> {
        let mut wire = Vec::new();
        let (mut at, mut after) = (self.at, None);
        loop {
            let length = *self.bytes.get(at)?;
            match length {
                0 => {
                    wire.push(0);
                    self.at = after.unwrap_or(at + 1);
                    return Some(Name(wire));
                }
                1..=63 => {
                    let end = at + 1 + usize::from(length);
                    wire.extend_from_slice(self.bytes.get(at..end)?);
                    if wire.len() >= 255 {
                        return None;
                    }
                    at = end;
                }
                0xc0.. => {
                    let to =
                        usize::from(length & 0x3f) << 8 | usize::from(*self.bytes.get(at + 1)?);
                    // Only backwards: so it ends.
                    if to >= at {
                        return None;
                    }
                    after = after.or(Some(at + 2));
                    at = to;
                }
                _ => return None,
            }
        }
    }

    fn question(&mut self) -> Option<Question> {
        let (name, kind, class) = (self.name()?, self.number()?, self.number()?);
        Some(Question {
            name,
            kind,
            class: class & !TOP,
            unicast: class & TOP != 0,
        })
    }

    fn record(&mut self) -> Option<Record> {
        let (name, kind, class) = (self.name()?, self.number()?, self.number()?);
        let (ttl, length) = (self.long()?, usize::from(self.number()?));
        let (begin, end) = (self.at, self.at + length);
        let raw = self.bytes.get(begin..end)?;
        let fixed = match kind {
            kind::PTR => Some(0),
            kind::SRV => Some(6),
            _ => None,
        };
        let data = match fixed {
            None => raw.to_vec(),
            Some(fixed) => {
                let mut data = raw.get(..fixed)?.to_vec();
                self.at = begin + fixed;
                data.extend_from_slice(self.name()?.wire());
                if self.at != end {
                    return None;
                }
                data
            }
        };
        self.at = end;
        Some(Record {
            name,
            kind,
            class: class & !TOP,
            unique: class & TOP != 0,
            ttl,
            data,
        })
    }
}

impl Message {
    /// Reads a message; `None` for what is none, or of another kind than multicast DNS has.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes, at: 0 };
        let (id, flags) = (reader.number()?, reader.number()?);
        if flags & (OPCODE | ERROR) != 0 || bytes.len() > LARGEST {
            return None;
        }
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = usize::from(reader.number()?);
        }
        if counts.iter().sum::<usize>() > MOST {
            return None;
        }
        let [questions, answers, authorities, additional] = counts;
        Some(Self {
            id,
            response: flags & RESPONSE != 0,
            truncated: flags & TRUNCATED != 0,
            questions: each(questions, || reader.question())?,
            answers: each(answers, || reader.record())?,
            authorities: each(authorities, || reader.record())?,
            additional: each(additional, || reader.record())?,
        })
    }

    /// Writes it, as one or more messages of which each fits into a frame: questions and
    /// authorities with the first, what goes with the answers where there is room.
    #[must_use]
    pub fn packets(&self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut writer = Writer::new(self);
        for question in &self.questions {
            writer.question(question);
        }
        for answer in &self.answers {
            if !writer.record(1, answer) {
                all.push(writer.finish());
                writer = Writer::new(self);
                writer.record(1, answer);
            }
        }
        for authority in &self.authorities {
            writer.record(2, authority);
        }
        for additional in &self.additional {
            writer.record(3, additional);
        }
        all.push(writer.finish());
        all
    }
}

fn each<T>(count: usize, mut read: impl FnMut() -> Option<T>) -> Option<Vec<T>> {
    (0..count).map(|_| read()).collect()
}

/// A message being written.
struct Writer {
    bytes: Vec<u8>,
    counts: [u16; 4],
}

impl Writer {
    fn new(message: &Message) -> Self {
        let flags = match message.response {
            true => RESPONSE | AUTHORITATIVE,
            false => 0,
        };
        let mut bytes = message.id.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.resize(12, 0);
        Self {
            bytes,
            counts: [0; 4],
        }
    }

    fn question(&mut self, question: &Question) {
        let class = question.class | if question.unicast { TOP } else { 0 };
        self.bytes.extend_from_slice(question.name.wire());
        self.bytes.extend_from_slice(&question.kind.to_be_bytes());
        self.bytes.extend_from_slice(&class.to_be_bytes());
        self.counts[0] += 1;
    }

    /// Adds a record to a section, unless the message has some and would grow too large.
    fn record(&mut self, section: usize, record: &Record) -> bool {
        let length = record.name.wire().len() + 10 + record.data.len();
        if self.bytes.len() + length > FIT && self.bytes.len() > 12 {
            return false;
        }
        let class = record.class | if record.unique { TOP } else { 0 };
        self.bytes.extend_from_slice(record.name.wire());
        self.bytes.extend_from_slice(&record.kind.to_be_bytes());
        self.bytes.extend_from_slice(&class.to_be_bytes());
        self.bytes.extend_from_slice(&record.ttl.to_be_bytes());
        let length = record.data.len() as u16;
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(&record.data);
        self.counts[section] += 1;
        true
    }

    fn finish(mut self) -> Vec<u8> {
        for (count, place) in self.counts.iter().zip(self.bytes[4..12].chunks_mut(2)) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Name> {
        proptest::collection::vec("[a-zA-Z0-9-]{1,20}", 0..5)
            .prop_map(|labels| Name::of(&labels.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    fn record() -> impl Strategy<Value = Record> {
        let raw = proptest::collection::vec(any::<u8>(), 0..80);
        let data = prop_oneof![
            (Just(kind::A), raw),
            (name()).prop_map(|name| (kind::PTR, name.wire().to_vec())),
            (any::<[u8; 6]>(), name())
                .prop_map(|(fixed, name)| (kind::SRV, [&fixed[..], name.wire()].concat())),
        ];
        (name(), data, any::<bool>(), any::<u32>()).prop_map(|(name, (kind, data), unique, ttl)| {
            Record {
                name,
                kind,
                class: IN,
                unique,
                ttl,
                data,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(answers in proptest::collection::vec(record(), 0..40), asked in name(), unicast in any::<bool>(), id in any::<u16>()) {
            let message = Message {
                id,
                response: true,
                questions: vec![Question { name: asked, kind: kind::ANY, class: IN, unicast }],
                answers,
                ..Message::default()
            };
            let packets = message.packets();
            let mut read = Vec::new();
            for packet in &packets {
                prop_assert!(packet.len() <= FIT);
                let part = Message::parse(packet).unwrap();
                prop_assert_eq!((part.id, part.response), (id, true));
                read.extend(part.answers);
            }
            prop_assert_eq!(read, message.answers);
            prop_assert_eq!(Message::parse(&packets[0]).unwrap().questions, message.questions);
        }

        #[test]
        fn garbage_is_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(Message::parse(&bytes));
        }

        /// Garbage that begins well: counts that fit, names that point about.
        #[test]
        fn half_garbage_is_read_without_harm(
            counts in proptest::array::uniform4(0u8..4),
            rest in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..4, Just(0xc0)], 0..300),
            cut in 0usize..300,
            answers in proptest::collection::vec(record(), 0..4),
        ) {
            let mut bytes = vec![0, 0, 0x84, 0];
            bytes.extend(counts.iter().flat_map(|count| [0, *count]));
            bytes.extend(rest);
            if let Some(message) = Message::parse(&bytes) {
                for record in message.answers {
                    prop_assert!(record.name.wire().len() <= 256);
                }
            }
            let good = Message { response: true, answers, ..Message::default() }.packets().remove(0);
            drop(Message::parse(good.get(..cut.min(good.len())).unwrap()));
        }
    }

    #[test]
    fn pointers_are_followed_backwards_only() {
        // PTR of _a.local, whose data is "x" and a pointer to the record's name.
        let mut bytes = vec![0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        bytes.extend_from_slice(b"\x02_a\x05local\0\0\x0c\0\x01\0\0\0\x78\0\x04\x01x\xc0\x0c");
        let read = Message::parse(&bytes).unwrap();
        assert_eq!(
            read.answers[0].data,
            Name::of(&["x", "_A", "LOCAL"]).wire().to_ascii_lowercase()
        );
        let last = bytes.len() - 1;
        for to in [last as u8 - 1, last as u8, 0xff] {
            bytes[last] = to;
            assert_eq!(Message::parse(&bytes), None, "{to}");
        }
    }

    #[test]
    fn messages_of_other_kinds_are_none() {
        let good = Message::default().packets().remove(0);
        assert!(Message::parse(&good).is_some());
        for (at, value) in [(2, 0x08), (3, 0x03), (4, 0x7f)] {
            let mut wrong = good.clone();
            wrong[at] = value;
            assert_eq!(Message::parse(&wrong), None);
        }
        assert_eq!(Message::parse(&[0; 9001]), None);
    }
}
