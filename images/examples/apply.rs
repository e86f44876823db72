//! Takes a bundle as `noded` does, into two files that it makes, and says how long each step
//! takes: what `ci/bench` measures. `apply BUNDLE PUB ROOT KERNEL`

#![expect(clippy::print_stdout, reason = "what it is for")]

use std::error::Error;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use slipway_images::bundle::keys::PublicKey;
use slipway_images::bundle::{Allow, Apart, Bundle, NodeFacts, Places, Progress, Step};
use slipway_images::direct::{Direct, Share};
use slipway_images::verity;

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [bundle, key, root, kernel] = &paths[..] else {
        return Err("apply BUNDLE PUB ROOT KERNEL".into());
    };
    let mut source = File::open(bundle)?;
    let key = PublicKey::from_pem(&std::fs::read_to_string(key)?)?;
    let bundle = Bundle::open(&mut source, &[key])?;
    let manifest = bundle.manifest().clone();
    let size = verity::end(manifest.root.size).ok_or("a root without end")?;
    File::create(root)?.set_len(size)?;
    let mut root = Direct::open(root, Share::Exclusive)?;
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let mut kernel = Apart(options.open(kernel)?);
    kernel.0.set_len(manifest.kernel.size)?;
    let facts = NodeFacts {
        board: &manifest.board,
        version: "",
        release: 0,
        root_hash: None,
        slot_size: size,
        boot_room: manifest.kernel.size,
        supports: &[],
        bad_versions: &[],
        firmware: None,
    };
    let mut places = Places {
        root: &mut root,
        running_root: None,
        kernel: &mut kernel,
    };
    let mut since = (Step::Compare, Instant::now());
    let mut watch = |now: &Progress| {
        if now.step != since.0 {
            println!("{:?} {:.2} s", since.0, since.1.elapsed().as_secs_f64());
            since = (now.step, Instant::now());
        }
        ControlFlow::Continue(())
    };
    let admitted = bundle.admit(&facts, Allow::default())?;
    let prepared = admitted.prepare(&mut places, &mut watch)?;
    prepared.run(&mut source, &mut places, &mut watch)?;
    kernel.0.sync_data()?;
    println!("{:?} {:.2} s", since.0, since.1.elapsed().as_secs_f64());
    Ok(())
}
