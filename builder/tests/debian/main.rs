//! The Debian reader against a mirror that this test serves itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

mod archive;
mod package;
mod server;
mod transfer;
mod trust;
mod versions;

use std::path::Path;

use slipway::Result;
use slipway::board::Board;
use slipway::debian::{self, Archive, Mirror};
use slipway::progress::{Progress, Style};

fn quiet() -> Progress {
    Progress::with_style(Style::Quiet)
}

fn open(url: &str, board: &Board, cache: &Path) -> Result<Archive> {
    debian::open(&Mirror::resolve(Some(url))?, board, cache, false, &quiet())
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|n| (*n).to_owned()).collect()
}
