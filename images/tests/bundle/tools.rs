//! The tools that own zstd and Ed25519 agree with us.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::maker::{Draft, SEGMENT, Version, key, public};

fn run(dir: &Path, command: &str) -> Vec<u8> {
    let mut words = command.split_whitespace();
    let out = Command::new(words.next().unwrap())
        .args(words)
        .current_dir(dir)
        .output()
        .expect("ci/setup installs it");
    let complaint = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command}: {complaint}");
    out.stdout
}

#[test]
fn zstd_unpacks_pieces_and_openssl_believes_signatures() {
    let [one, two] = [Version::first(), Version::first().next()];
    let draft = Draft::new(&two, &[&one]);
    let bundle = draft.bundle(&key(1));
    let places = draft.places(&bundle);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();

    // By the offsets of docs/bundle.md alone.
    let n = u32::from_le_bytes(bundle[12..16].try_into().unwrap()) as usize;
    write("signed", &bundle[..32 + n]);
    write("signature", &bundle[32 + n..96 + n]);
    write("update.pub", public(&key(1)).pem().as_bytes());
    run(
        dir.path(),
        "openssl pkeyutl -verify -rawin -pubin -inkey update.pub -in signed -sigfile signature",
    );
    let manifest: serde_json::Value = serde_json::from_slice(&bundle[32..32 + n]).unwrap();
    assert_eq!(manifest["version"], two.name());

    write("piece.zst", &bundle[96 + n..][..places[0].len()]);
    let unpacked = run(dir.path(), "zstd -dc piece.zst");
    assert!(unpacked == two.kernel[..SEGMENT as usize]);

    // The last delta, with its stretch of the old root.
    let delta = *draft.manifest.bases[0].deltas.last().unwrap();
    let from = delta.from as usize;
    write("prefix", &one.root[from..from + delta.len as usize]);
    write("delta.zst", &bundle[places[places.len() - 1].clone()]);
    let unpacked = run(dir.path(), "zstd -dc --patch-from=prefix delta.zst");
    let start = delta.segment as usize * SEGMENT as usize;
    assert!(unpacked == two.root[start..two.root.len().min(start + SEGMENT as usize)]);
}
