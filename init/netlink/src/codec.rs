//! The encoding of rtnetlink messages (rtnetlink(7), netlink(7)), as far as it is used.
//!
//! | struct | fields, all in the processor's order |
//! |---|---|
//! | nlmsghdr, 16 bytes | length 4, type 2, flags 2, sequence 4, port 4 |
//! | ifinfomsg, 16 | family 1, pad 1, type 2, index 4, flags 4, change 4 |
//! | ifaddrmsg, 8 | family 1, prefix length 1, flags 1, scope 1, index 4 |
//! | rtmsg, 12 | family 1, dst_len 1, src_len 1, tos 1, table 1, protocol 1, scope 1, type 1, flags 4 |
//! | nduseroptmsg, 16 | family 1, pad 1, opts_len 2, index 4, icmp type 1, code 1, pad 6 |
//! | attribute | length 2 (with these 4), type 2, value, padding to 4 |
//! | nlmsgerr | negative errno 4, the request's header 16 |
//!
//! Own code: `netlink-packet-route` knows everything and made PID 1 a fifth larger.

use std::net::IpAddr;

/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;

/// A message being put together.
pub struct Builder(Vec<u8>);

impl Builder {
    /// Begins a message with its fixed part.
    pub fn new(kind: u16, flags: u16, sequence: u32, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(fixed);
        Self(bytes)
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (4 + value.len()) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an attribute that holds a number.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds an attribute that holds an address.
    #[must_use]
    pub fn address(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    /// The finished message.
    pub fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// A message that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// nlmsg_type.
    pub kind: u16,
    /// nlmsg_seq.
    pub sequence: u32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// Reads a `u16`; `None` beyond the end.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads a `u32`; `None` beyond the end.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Splits a datagram into its messages; what is cut off is left out.
pub fn messages(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut all = Vec::new();
    while let Some(length) = u32_at(bytes, 0) {
        let length = length as usize;
        let Some(body) = bytes.get(HEADER..length) else {
            break;
        };
        all.push(Message {
            kind: u16_at(bytes, 4).unwrap_or(0),
            sequence: u32_at(bytes, 8).unwrap_or(0),
            body,
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// The attributes behind a fixed part: type (without the two flag bits) and value.
pub fn attributes(body: &[u8], fixed: usize) -> Vec<(u16, &[u8])> {
    let mut bytes = body.get(fixed..).unwrap_or_default();
    let mut all = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        let length = usize::from(length);
        let Some(value) = bytes.get(4..length) else {
            break;
        };
        all.push((kind & 0x3fff, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// An address from an attribute's value.
pub fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

/// A text as the kernel wants it: with NUL.
#[must_use]
pub fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// Attributes inside of an attribute.
#[must_use]
pub fn nested(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let empty = Builder::new(0, 0, 0, &[]);
    let all = attributes
        .iter()
        .fold(empty, |all, (kind, value)| all.attribute(*kind, value));
    all.finish().split_off(HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_built_is_read(kind in any::<u16>(), sequence in any::<u32>(), values in proptest::collection::vec((0u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..40)), 0..6)) {
            let mut builder = Builder::new(kind, 5, sequence, &[7; 8]);
            for (kind, value) in &values {
                builder = builder.attribute(*kind, value);
            }
            let mut bytes = builder.finish();
            bytes.extend(Builder::new(3, 0, 0, &[]).finish());
            let all = messages(&bytes);
            prop_assert_eq!(all.len(), 2);
            prop_assert_eq!((all[0].kind, all[0].sequence), (kind, sequence));
            let read: Vec<_> = attributes(all[0].body, 8).into_iter().map(|(k, v)| (k, v.to_vec())).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..40) {
            for message in messages(&bytes) {
                attributes(message.body, at);
            }
            attributes(&bytes, at);
            address(&bytes);
        }
    }
}
