//! What an update by 4 KiB block hashes fetches, as RAUC's adaptive one: the blocks of a new image
//! whose digest no block of the old one has, each once. For `ci/bench`. `blocks OLD NEW > BLOCKS`

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};

use slipway_images::bundle::Digest;

const BLOCK: usize = 4096;

fn each(path: &str, mut of: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut block = Vec::with_capacity(BLOCK);
    while file.by_ref().take(BLOCK as u64).read_to_end(&mut block)? > 0 {
        of(&block)?;
        block.clear();
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let mut paths = std::env::args().skip(1);
    let (Some(old), Some(new)) = (paths.next(), paths.next()) else {
        return Err(io::Error::other("blocks OLD NEW"));
    };
    let mut known = HashSet::new();
    each(&old, |block| {
        known.insert(Digest::of(block));
        Ok(())
    })?;
    let mut out = BufWriter::new(io::stdout().lock());
    each(&new, |block| match known.insert(Digest::of(block)) {
        true => out.write_all(block),
        false => Ok(()),
    })?;
    out.flush()
}
