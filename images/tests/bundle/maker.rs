//! Bundles made as simply as can be: another hand than the builder's.

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use slipway_images::bundle::keys::PublicKey;
use slipway_images::bundle::manifest::{
    Base, Delta, Digest, Manifest, Payload, PayloadName, Segment, Stored,
};
use slipway_images::bundle::signed::Kind;
use slipway_images::bundle::{KIND, segment};
use slipway_images::verity;
use zstd_safe::{CCtx, CParameter, compress_bound};

/// Bytes of a segment here.
pub const SEGMENT: u32 = 64 << 10;
pub const BOARD: &str = "test";

/// A version of an image.
#[derive(Debug, Clone)]
pub struct Version {
    pub number: u64,
    pub kernel: Vec<u8>,
    pub root: Vec<u8>,
}

impl Version {
    /// The first: noise that compresses a little, and zeros at the end of the root.
    pub fn first() -> Self {
        let mut root = noise(900_000, 1);
        root.resize(1 << 20, 0);
        Self {
            number: 1,
            kernel: noise(300_000, 2),
            root,
        }
    }

    /// The next: a line is another one, and something longer moves what is behind it.
    pub fn next(&self) -> Self {
        let mut new = self.clone();
        new.number += 1;
        new.root[5000..5010].fill(new.number as u8);
        let moved: Vec<u8> = new.root[400_000..600_000].to_vec();
        new.root[404_096..604_096].copy_from_slice(&moved);
        new.kernel[200_000..200_009].fill(new.number as u8);
        new.kernel.splice(100..100, noise(100, new.number));
        new
    }

    pub fn name(&self) -> String {
        format!("0.{}.0", self.number)
    }

    pub fn root_hash(&self) -> verity::RootHash {
        self.tree().root
    }

    /// What belongs behind the root.
    pub fn tree(&self) -> verity::Tree {
        let blocks = (self.root.len() as u64 / verity::BLOCK).try_into().unwrap();
        let all = 0..self.root.len() as u64 / verity::BLOCK;
        let read = |block: u64, into: &mut [u8]| {
            let at = (block * verity::BLOCK) as usize;
            into.copy_from_slice(&self.root[at..at + into.len()]);
            Ok::<(), ()>(())
        };
        verity::tree(
            blocks,
            std::slice::from_ref(&all),
            &verity::salt(BOARD),
            1,
            read,
        )
        .unwrap()
    }

    pub fn payload(&self, name: PayloadName) -> &[u8] {
        match name {
            PayloadName::Kernel => &self.kernel,
            PayloadName::Root => &self.root,
        }
    }
}

/// Bytes without much order.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u8 & 0x3f
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

pub fn public(key: &Ed25519KeyPair) -> PublicKey {
    PublicKey::new(key.public_key().as_ref().try_into().unwrap())
}

pub fn sign(kind: &Kind, json: &[u8], key: &Ed25519KeyPair) -> Vec<u8> {
    let mut bytes = kind.unsigned(public(key).id(), json);
    let signature = key.sign(&bytes);
    bytes.extend(signature.as_ref());
    bytes
}

/// A bundle in the making, to be spoilt before it is signed.
#[derive(Debug, Clone)]
pub struct Draft {
    pub manifest: Manifest,
    /// All of them, in order.
    pub pieces: Vec<Vec<u8>>,
}

impl Draft {
    pub fn new(new: &Version, olds: &[&Version]) -> Self {
        let mut pieces = Vec::new();
        let [kernel, root] = PayloadName::BOTH.map(|name| {
            let bytes = new.payload(name);
            let segments = bytes.chunks(SEGMENT as usize).map(|bytes| Segment {
                sha256: Digest::of(bytes),
                stored: (bytes.iter().any(|b| *b != 0)).then(|| {
                    pieces.push(compress(bytes, &[]));
                    stored(&pieces[pieces.len() - 1])
                }),
            });
            Payload {
                size: bytes.len() as u64,
                segments: segments.collect(),
            }
        });
        let mut manifest = Manifest {
            board: BOARD.to_owned(),
            version: new.name(),
            release: new.number,
            kubernetes: "v1.36.3".to_owned(),
            requires: Vec::new(),
            next_keys: Vec::new(),
            root_hash: new.root_hash(),
            kernel_sha256: Digest::of(&new.kernel),
            segment_size: SEGMENT,
            kernel,
            root,
            bases: Vec::new(),
        };
        for old in olds {
            let mut deltas = Vec::new();
            let full: Vec<_> = manifest.full().map(|(name, n, _)| (name, n)).collect();
            for (name, n) in full {
                let place = manifest.place(name, n);
                let (new, old) = (new.payload(name), old.payload(name));
                let bytes = &new[place.start as usize..place.end as usize];
                if old.get(place.start as usize..place.end as usize) == Some(bytes) {
                    continue;
                }
                let from = place.start.saturating_sub(SEGMENT.into()) as usize;
                let to = old.len().min(place.end as usize + SEGMENT as usize);
                pieces.push(compress(bytes, &old[from..to]));
                deltas.push(Delta {
                    payload: name,
                    segment: n as u32,
                    from: from as u64,
                    len: (to - from) as u32,
                    stored: stored(&pieces[pieces.len() - 1]),
                });
            }
            manifest.bases.push(Base {
                version: old.name(),
                root_hash: old.root_hash(),
                deltas,
            });
        }
        Self { manifest, pieces }
    }

    /// Signed and put together.
    pub fn bundle(&self, key: &Ed25519KeyPair) -> Vec<u8> {
        self.with_json(&serde_json::to_vec(&self.manifest).unwrap(), key)
    }

    /// With another manifest's text.
    pub fn with_json(&self, json: &[u8], key: &Ed25519KeyPair) -> Vec<u8> {
        let mut bytes = sign(&KIND, json, key);
        bytes.extend(self.pieces.concat());
        bytes
    }

    /// Where the pieces lie in the bundle.
    pub fn places(&self, bundle: &[u8]) -> Vec<std::ops::Range<usize>> {
        let total: usize = self.pieces.iter().map(Vec::len).sum();
        let mut at = bundle.len() - total;
        let step = |piece: &Vec<u8>| {
            let start = at;
            at += piece.len();
            start..at
        };
        self.pieces.iter().map(step).collect()
    }

    /// Puts another piece in the place of the root's first one, which the manifest then has
    /// signed.
    pub fn replace_root_piece(&mut self, piece: Vec<u8>) {
        let number = self.manifest.kernel.segments.len();
        let segment = &mut self.manifest.root.segments[0];
        segment.stored = Some(stored(&piece));
        self.pieces[number] = piece;
    }
}

pub fn stored(piece: &[u8]) -> Stored {
    Stored {
        size: piece.len() as u32,
        sha256: Digest::of(piece),
    }
}

pub fn compress(bytes: &[u8], prefix: &[u8]) -> Vec<u8> {
    let mut encoder = CCtx::create();
    let level = CParameter::CompressionLevel(1);
    encoder.set_parameter(level).unwrap();
    if !prefix.is_empty() {
        let window = CParameter::WindowLog(segment::WINDOW_LOG);
        encoder.set_parameter(window).unwrap();
        let long = CParameter::EnableLongDistanceMatching(true);
        encoder.set_parameter(long).unwrap();
        encoder.ref_prefix(prefix).unwrap();
    }
    let mut piece = Vec::with_capacity(compress_bound(bytes.len()));
    encoder.compress2(&mut piece, bytes).unwrap();
    piece
}
