//! The download, against zstd.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use slipway::Kind;
use slipway::digest::to_hex;
use slipway::formats::zst::{Cuts, Stats, compress, compress_with, seek_table};

use super::{noise, quiet, run, sparse, str};

const SMALL: Cuts = Cuts {
    min: 256 << 10,
    mean: 256 << 10,
    max: 2 << 20,
};

fn image(path: &Path) -> fs::File {
    let file = sparse(path, 48 << 20);
    file.write_all_at(&noise(1, 4 << 20), 1 << 20).unwrap();
    file.write_all_at(
        &[b"text ".repeat(100_000), noise(2, 1 << 20)].concat(),
        40 << 20,
    )
    .unwrap();
    file.write_all_at(b"the end", (48 << 20) - 7).unwrap();
    file
}

fn make(input: &Path, output: &Path, cache: &Path, threads: usize) -> Stats {
    compress_with(input, output, 3, cache, threads, SMALL, &quiet()).unwrap()
}

#[test]
fn zstd_takes_it_and_the_bytes_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output, back) = (
        dir.path().join("x.img"),
        dir.path().join("x.img.zst"),
        dir.path().join("back"),
    );
    image(&input);
    let stats = make(&input, &output, &dir.path().join("cache"), 2);
    run("zstd", &["-t", str(&output)]);
    run("zstd", &["-q", "-d", str(&output), "-o", str(&back)]);
    let bytes = fs::read(&input).unwrap();
    assert!(fs::read(&back).unwrap() == bytes);
    assert_eq!(stats.image, 48 << 20);
    assert_eq!(stats.compressed, fs::metadata(&output).unwrap().len());
    let digest = |path: &Path| run("sha256sum", &[str(path)])[..64].to_owned();
    assert_eq!(to_hex(&stats.image_sha256), digest(&input));
    assert_eq!(to_hex(&stats.compressed_sha256), digest(&output));
    // 42 MiB of zeros cost next to nothing.
    assert!(stats.compressed < 5_400_000, "{stats:?}");

    let rows = seek_table(&output).unwrap();
    assert_eq!(rows.len(), stats.segments);
    let packed = fs::read(&output).unwrap();
    for row in [rows[0], rows[rows.len() / 2], rows[rows.len() - 1]] {
        let from = row.compressed_at as usize;
        let frame = &packed[from..from + row.compressed as usize];
        let segment = zstd::decode_all(frame).unwrap();
        assert!(segment == bytes[row.at as usize..][..row.size as usize]);
    }
}

#[test]
fn neither_threads_nor_cache_nor_holes_change_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("x.img");
    image(&input);
    let whole = dir.path().join("whole.img");
    fs::write(&whole, fs::read(&input).unwrap()).unwrap();
    let cache = dir.path().join("cache");
    let out = |name: &str, input: &Path, cache: &Path, threads| {
        let path = dir.path().join(name);
        make(input, &path, cache, threads);
        fs::read(path).unwrap()
    };
    let first = out("1", &input, &cache, 1);
    assert!(first == out("2", &input, &dir.path().join("other"), 5));
    assert!(first == out("3", &input, &cache, 3));
    assert!(first == out("4", &whole, &cache, 2));
}

#[test]
fn a_small_change_recompresses_little_even_if_it_moves_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("x.img"), dir.path().join("x.img.zst"));
    let cache = dir.path().join("cache");
    let data = noise(3, 6 << 20);
    fs::write(&input, &data).unwrap();
    let cold = make(&input, &output, &cache, 2);
    assert_eq!(cold.cached, 0);
    let again = make(&input, &output, &cache, 2);
    assert_eq!(again.cached, again.segments);
    fs::write(&input, [noise(4, 4096), data].concat()).unwrap();
    let moved = make(&input, &output, &cache, 2);
    assert!(moved.segments - moved.cached <= 3, "{moved:?}");
    // A broken cache is a slow one and no more.
    for entry in walk(&cache) {
        fs::write(entry, b"broken").unwrap();
    }
    assert_eq!(make(&input, &output, &cache, 2).cached, 0);
    run("zstd", &["-t", str(&output)]);
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn what_cannot_be_compressed_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    let error = compress(&none, &none, 3, dir.path(), 1, &quiet()).unwrap_err();
    assert_eq!(error.kind, Kind::Io);
    let error = compress(&none, &none, 23, dir.path(), 1, &quiet()).unwrap_err();
    assert_eq!(error.kind, Kind::Usage);
    let empty = dir.path().join("empty");
    fs::write(&empty, b"").unwrap();
    let out = dir.path().join("out");
    compress(&empty, &out, 3, dir.path(), 4, &quiet()).unwrap();
    assert_eq!(seek_table(&out).unwrap(), []);
    run("zstd", &["-t", str(&out)]);
    fs::write(&out, noise(1, 100)).unwrap();
    assert_eq!(seek_table(&out).unwrap_err().kind, Kind::Input);
}

proptest::proptest! {
    #[test]
    fn any_bytes_have_a_seek_table_or_not(
        mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
        frames in 0u32..20,
    ) {
        let n = bytes.len();
        if n > 9 {
            bytes[n - 9..n - 5].copy_from_slice(&frames.to_le_bytes());
            bytes[n - 5] &= 0x80;
            bytes[n - 4..].copy_from_slice(&0x8F92_EAB1u32.to_le_bytes());
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        drop(seek_table(file.path()));
    }
}
