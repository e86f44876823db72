//! What the firmware wouldn't start isn't made bootable: kernel images signed by sbsign, and
//! variables of efitools.

use std::fs;
use std::path::Path;

use serde_json::json;
use slipway_images::slot::{Slot, State};

use super::common::{Node, Owner};
use super::maker::Version;
use super::{bundle, has, is_untouched, push, root, slots, tool};

/// A program as firmware starts it, signed by the tools that own the formats: that of `signer`,
/// whose certificate is in the list `signer.esl`.
struct Signing {
    dir: tempfile::TempDir,
}

const PROGRAM: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const VARIABLES: &str = "sys/firmware/efi/efivars";
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
const IMAGE_SECURITY: &str = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";

impl Signing {
    /// `ca` and `other` have signed themselves, `leaf` was issued by `ca`.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Self { dir };
        for name in ["ca", "leaf", "other"] {
            let [key, crt, esl, der] =
                ["key", "crt", "esl", "der"].map(|suffix| made.at(&format!("{name}.{suffix}")));
            let subject = format!("/O=Example/CN={name}");
            let mut request = vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256"];
            request.extend(["-subj", &subject, "-keyout", &key, "-out", &crt]);
            let (by, by_key) = (made.at("ca.crt"), made.at("ca.key"));
            if name == "leaf" {
                request.extend(["-CA", &by, "-CAkey", &by_key]);
            }
            tool("openssl", &request);
            tool("cert-to-efi-sig-list", &[&crt, &esl]);
            tool(
                "openssl",
                &["x509", "-in", &crt, "-outform", "DER", "-out", &der],
            );
        }
        made
    }

    fn at(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// A version whose kernel image is signed.
    fn version(&self, old: &Version, signer: &str) -> Version {
        let [key, crt, signed] =
            ["key", "crt", "efi"].map(|suffix| self.at(&format!("{signer}.{suffix}")));
        let sign = ["--key", &key, "--cert", &crt, "--output", &signed, PROGRAM];
        tool("sbsign", &sign);
        Version {
            kernel: fs::read(signed).unwrap(),
            ..old.next()
        }
    }

    /// Variables of a firmware that enforces it, and whose `db` and `dbx` have these lists.
    fn firmware(&self, root: &Path, db: &[&str], dbx: &[&str]) {
        let lists = |names: &[&str]| -> Vec<u8> {
            let read = |name: &&str| fs::read(self.at(&format!("{name}.esl"))).unwrap();
            names.iter().flat_map(read).collect()
        };
        let dir = root.join(VARIABLES);
        fs::create_dir_all(&dir).unwrap();
        for (name, guid, content) in [
            ("SecureBoot", GLOBAL, vec![1]),
            ("db", IMAGE_SECURITY, lists(db)),
            ("dbx", IMAGE_SECURITY, lists(dbx)),
        ] {
            let bytes = [vec![6, 0, 0, 0], content].concat();
            fs::write(dir.join(format!("{name}-{guid}")), bytes).unwrap();
        }
    }
}

#[test]
fn what_the_firmware_would_not_start_is_never_bootable() {
    let owner = Owner::new();
    let old = Version::first();
    let signing = Signing::new();
    let new = signing.version(&old, "leaf");
    let mut kernel = fs::read(PROGRAM).unwrap();
    // As who signs it does, and the tool below.
    kernel.resize(kernel.len().next_multiple_of(8), 0);
    let unsigned = Version {
        kernel,
        ..old.next()
    };
    let mut changed = new.clone();
    changed.kernel[5000] ^= 1;
    tool(
        "hash-to-efi-sig-list",
        &[PROGRAM, &signing.at("unsigned.esl")],
    );
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    let refused = |version: &Version, db: &[&str], dbx: &[&str], words: &str| {
        signing.firmware(node.root.path(), db, dbx);
        let (last, read) = push(&node, &owner, bundle(version, &[]), "reboot=never");
        assert_eq!(last["state"], "failed", "{last}");
        let note = last["note"].as_str().unwrap();
        assert!(
            note.contains("Secure Boot") && note.contains(words),
            "{note}"
        );
        let status = slots(node.root.path()).status();
        assert_eq!(
            (status.b.state, status.next),
            (State::Writing, Some(Slot::A))
        );
        // Nothing of the root was fetched.
        assert!(read < version.kernel.len() as u64 + 20_000, "{read}");
    };
    refused(&old.next(), &["ca"], &[], "no valid EFI program");
    refused(&unsigned, &["ca", "other"], &[], "isn't signed");
    refused(&changed, &["ca"], &[], "has been changed");
    refused(&new, &["other"], &[], "signed by O=Example, CN=leaf");
    refused(&new, &[], &[], "signed by O=Example, CN=leaf");
    refused(&new, &["ca", "leaf"], &["leaf"], "dbx forbids O=Example");
    refused(&new, &["leaf"], &["ca"], "dbx forbids O=Example");
    refused(&unsigned, &["unsigned"], &["unsigned"], "this very program");

    let taken = |version: &Version, db: &[&str]| {
        signing.firmware(node.root.path(), db, &["other"]);
        let (last, _) = push(&node, &owner, bundle(version, &[]), "reboot=never");
        assert_eq!(last["state"], "staged", "{last}");
        has(&node, version);
    };
    taken(&new, &["ca"]);
    taken(&unsigned, &["unsigned"]);
    taken(&new, &["leaf"]);
    // Secure Boot is off: firmware starts anything.
    let state = node.at(&format!("{VARIABLES}/SecureBoot-{GLOBAL}"));
    fs::write(state, [6, 0, 0, 0, 0]).unwrap();
    let (last, _) = push(&node, &owner, bundle(&old.next(), &[]), "reboot=never");
    assert_eq!(last["state"], "staged", "{last}");

    // It is on, and nobody can say what it goes by: nothing is begun.
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    let boot_params = node.at("sys/kernel/boot_params/data");
    fs::create_dir_all(boot_params.parent().unwrap()).unwrap();
    fs::write(boot_params, [3; 4096]).unwrap();
    signing.firmware(node.root.path(), &["ca"], &[]);
    fs::write(
        node.at(&format!("{VARIABLES}/db-{IMAGE_SECURITY}")),
        "short",
    )
    .unwrap();
    let (last, _) = push(&node, &owner, bundle(&new, &[]), "reboot=never");
    let note = last["note"].to_string();
    assert!(note.contains("can't be read: db"), "{note}");
    is_untouched(&node);
}
