//! Keys that bundles have brought ([`Manifest::next_keys`]), beside those of the image.
//!
//! They are kept as the heads of those bundles, manifest and signature, one behind the other and
//! oldest first. So who can write to a node's data partition can take keys away or bring back
//! earlier ones, but can't add one that nobody has signed for.
//!
//! | a head is signed with | then |
//! |---|---|
//! | a key of the image, or one that the head before it has brought | its keys count, those of the heads before no longer |
//! | another key | it doesn't count: the image has withdrawn that key |
//! | anything, and was changed or damaged | nothing of it all counts |

use super::KIND;
use super::error::BundleError;
use super::keys::PublicKey;
use super::manifest::Manifest;
use super::signed::{self, SignedError};

/// Bytes of all heads that are kept: two of the longest, dozens of usual ones. One is enough
/// unless keys are changed again and again while the image stays with an old one.
pub const HEADS_LIMIT: usize = 8 << 20;

/// The keys that are to be trusted beside those of the image.
///
/// # Errors
/// [`BundleError`] if any of it isn't as it was signed.
pub fn brought(heads: &[u8], image: &[PublicKey]) -> Result<Vec<PublicKey>, BundleError> {
    let mut brought = Vec::new();
    let mut rest = heads;
    // An image without keys takes no updates, whatever they have brought.
    while !rest.is_empty() && !image.is_empty() {
        let end = KIND.end(rest)?;
        let (head, behind) = (rest.split_at_checked(end)).ok_or(SignedError::CutOff(KIND.what))?;
        rest = behind;
        match signed::verify(&KIND, head, &[image, &brought[..]].concat()) {
            Ok(json) => brought = Manifest::parse(json)?.next_keys,
            Err(SignedError::UnknownKey { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(brought)
}

/// The heads with that of a bundle which was committed: alone, if the image's own keys prove it.
///
/// # Errors
/// [`BundleError`] if neither they nor those that were brought have signed it, or if there are
/// more heads than are kept.
pub fn add(heads: &[u8], head: &[u8], image: &[PublicKey]) -> Result<Vec<u8>, BundleError> {
    let heads = match signed::verify(&KIND, head, image) {
        Err(SignedError::UnknownKey { .. }) => heads,
        alone => alone.map(|_json| &[][..])?,
    };
    let brought = brought(heads, image)?;
    signed::verify(&KIND, head, &[image, &brought[..]].concat())?;
    match [heads, head].concat() {
        all if all.len() > HEADS_LIMIT => Err(BundleError::TooManyHeads),
        all => Ok(all),
    }
}
