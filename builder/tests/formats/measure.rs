//! Sizes and times of the download by level and segment size; the table in the
//! documentation of formats comes from here:
//!
//! `SLIPWAY_MEASURE=x86_64.img cargo test -p slipway --test formats measure -- --ignored --nocapture`
//!
//! `SLIPWAY_MEASURE_LEVELS=12,19` and `SLIPWAY_MEASURE_CUTS=16+16/64` (MiB) choose.

use std::path::Path;
use std::time::Instant;

use slipway::formats::zst::{Cuts, compress_with};

use super::quiet;

fn cpu() -> f64 {
    // utime and stime of all threads, in ticks of 10 ms (proc(5)).
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[test]
#[ignore = "takes minutes, and needs an image"]
fn measure_levels_and_segments() {
    let image = std::env::var("SLIPWAY_MEASURE").expect("SLIPWAY_MEASURE names an image");
    let only = std::env::var("SLIPWAY_MEASURE_LEVELS").unwrap_or("3,9,12,15,19".into());
    let cuts =
        std::env::var("SLIPWAY_MEASURE_CUTS").unwrap_or("2+4/16,8+8/32,16+16/64,64+64/128".into());
    println!("| segments (min + mean, max MiB) | level | MB | CPU s | wall s | frames |");
    for level in only.split(',').map(|l| l.parse::<i32>().unwrap()) {
        for sizes in cuts.split(',') {
            let sizes: Vec<u64> = sizes
                .split(['+', '/'])
                .map(|n| n.parse().unwrap())
                .collect();
            let [min, mean, max] = sizes[..] else {
                panic!("cuts are written as 16+16/64");
            };
            let dir = tempfile::tempdir().unwrap();
            let cuts = Cuts {
                min: min << 20,
                mean: mean << 20,
                max: max << 20,
            };
            let (wall, before) = (Instant::now(), cpu());
            let stats = compress_with(
                Path::new(&image),
                &dir.path().join("out"),
                level,
                dir.path(),
                2,
                cuts,
                &quiet(),
            )
            .unwrap();
            println!(
                "| {min} + {mean}, {max} | {level} | {:.1} | {:.0} | {:.0} | {} |",
                stats.compressed as f64 / 1e6,
                cpu() - before,
                wall.elapsed().as_secs_f64(),
                stats.segments,
            );
        }
    }
}
