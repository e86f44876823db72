//! Scripts for U-Boot, against mkimage and dumpimage.

use std::fs;
use std::process::Command;

use slipway::formats::uimage;

#[test]
fn mkimage_makes_the_same_script_and_dumpimage_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let text = "echo it works\nreset\n";
    fs::write(at("text"), text).unwrap();
    let made = Command::new("mkimage")
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .args([
            "-A", "arm", "-O", "linux", "-T", "script", "-C", "none", "-n", "a name", "-d",
        ])
        .args([at("text"), at("theirs")])
        .output()
        .expect("mkimage is needed: apt install u-boot-tools");
    assert!(made.status.success(), "{made:?}");
    let ours = uimage::script("a name", text, 1_700_000_000);
    assert_eq!(ours, fs::read(at("theirs")).unwrap());
    fs::write(at("ours"), &ours).unwrap();
    let shown = Command::new("dumpimage").arg("-l").arg(at("ours")).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(shown.contains("ARM Linux Script"), "{shown}");
    let long = uimage::script(&"n".repeat(40), "", 0);
    assert_eq!(&long[62..64], b"n\0");
}
