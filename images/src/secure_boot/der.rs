//! DER, looked over before `yasna` reads it: version 0.6 adds a length to a position without
//! asking whether that overflows, and on a node a panic ends the program.
//!
//! | offset in an element | size | what |
//! |---|---|---|
//! | 0 | 1 | tag; bit 5: other elements are in it |
//! | 1 | 1 | length of the content below 128; else 128 + *n* |
//! | 2 | *n*, 1 to 4 | the length, big-endian |
//! | then | length | the content |
//!
//! Source: ITU-T X.690, section 8.1. Tags of several bytes are in nothing that is read here.

use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader};

/// Most elements within each other; no certificate has half as many.
const DEPTH: usize = 32;

/// Reads one element, with nothing behind it.
///
/// # Errors
/// Those of `read`, and for lengths that point beyond what they are in.
pub fn parse<T>(
    der: &[u8],
    read: impl for<'a, 'b> FnOnce(BERReader<'a, 'b>) -> ASN1Result<T>,
) -> ASN1Result<T> {
    fits(der, DEPTH).ok_or_else(|| ASN1Error::new(ASN1ErrorKind::Invalid))?;
    yasna::parse_der(der, read)
}

/// Whether all elements, and those in them, end where what they are in does, or before.
fn fits(mut der: &[u8], depth: usize) -> Option<()> {
    while let Some((tag, rest)) = der.split_first() {
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=127 => (u32::from(*first), rest),
            129..=132 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | u32::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        match tag {
            _ if tag & 0x1f == 0x1f => return None,
            _ if tag & 0x20 != 0 => fits(content, depth.checked_sub(1)?)?,
            _ => {}
        }
        der = behind;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secure_boot::authenticode::Program;
    use crate::secure_boot::lists::Lists;
    use crate::secure_boot::{Certificate, pkcs7};

    #[test]
    fn a_length_that_overflows_is_refused() {
        for length in [&[0x88][..], &[0x89, 0], &[0x84]] {
            // In the outer element, and in one within.
            let endless = [&[0x30][..], length, &[0xff; 20]].concat();
            let mut within = vec![0x30, endless.len() as u8];
            within.extend(&endless);
            for der in [endless, within] {
                assert!(Certificate::parse(&der).is_err());
                assert!(pkcs7::read(&der).is_err());
                assert!(pkcs7::inside(&der).is_err());
                assert!(pkcs7::digest_in(&der).is_err());
            }
        }
        let mut deep = Vec::new();
        for _ in 0..=DEPTH {
            deep.insert(0, deep.len() as u8);
            deep.insert(0, 0x30);
        }
        assert!(parse(&deep, |r| r.read_der()).is_err());
        assert_eq!(parse(&deep[2..], |r| r.read_der()).unwrap(), deep[2..]);
    }

    /// Bytes that look like DER more often than chance would have it.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            any::<u8>(),
            prop::sample::select(vec![0x02, 0x03, 0x04, 0x05, 0x06, 0x30, 0x31, 0xa0]),
            0x80u8..0x8a,
            Just(0xff),
            0u8..20,
        ];
        prop::collection::vec(byte, 0..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in nearly()) {
            prop_assert!(Certificate::parse(&bytes).is_err());
            prop_assert!(pkcs7::read(&bytes).is_err());
            prop_assert!(Program::of(&bytes).is_err());
            drop(pkcs7::inside(&bytes));
            drop(pkcs7::digest_in(&bytes));
            drop(Lists::parse(&bytes));
        }
    }
}
