//! Version order against dpkg's own.

use std::cmp::Ordering;
use std::process::Command;

use slipway::debian::compare_versions;

#[test]
fn the_order_is_dpkgs() {
    let versions = [
        "0",
        "1",
        "1.0",
        "1.0-0",
        "1.0-1",
        "1.0-1.1",
        "1.0-1+b1",
        "1.0-1~bpo12+1",
        "1.0~rc1-1",
        "1.0+dfsg-1",
        "1.0a",
        "1.0.1",
        "1.10",
        "1.9",
        "1:0.1",
        "2:6.3.0+dfsg-3",
        "1:1.3.dfsg+really1.3.1-1+deb13u1",
        "6.12.57-1",
        "6.12.118-1",
        "1.0-00",
        "1.00",
        "1.0+",
        "1.0+a",
        "1.0-a",
        "20250419+deb13u1",
        "9.7-3",
        "0.12.2-2",
        "1:2.75-10+deb13u1+b3",
        "10.46-1~deb13u3",
        "1.0~~",
        "1.0~~a",
        "1.0~a",
    ];
    for (n, a) in versions.iter().enumerate() {
        // Half of the pairs: a process for each costs a millisecond or two.
        for b in versions.iter().skip(n).step_by(2) {
            let dpkg = |operator: &str| {
                Command::new("dpkg")
                    .args(["--compare-versions", a, operator, b])
                    .status()
                    .expect("this test needs dpkg")
                    .success()
            };
            let theirs = if dpkg("lt") {
                Ordering::Less
            } else if dpkg("eq") {
                Ordering::Equal
            } else {
                Ordering::Greater
            };
            assert_eq!(compare_versions(a, b), theirs, "{a} and {b}");
            assert_eq!(compare_versions(b, a), theirs.reverse(), "{b} and {a}");
        }
    }
}
