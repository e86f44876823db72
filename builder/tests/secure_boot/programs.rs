//! Signed EFI programs, against sbsign and sbverify.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use slipway::formats::authenticode::{sign, verify};
use slipway::formats::efi_variable::lists;
use slipway::formats::uki;
use slipway_images::secure_boot::authenticode::Program;
use slipway_images::secure_boot::lists::Lists;
use slipway_images::secure_boot::{Certificate, Firmware, pkcs7};
use uuid::Uuid;

use super::{KEYS, run, str, tool};

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
const LOADER: &str = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi";

pub fn loader() -> Vec<u8> {
    fs::read(LOADER).unwrap_or_else(|e| panic!("{LOADER} is needed (systemd-boot-efi): {e}"))
}

pub fn unified() -> Vec<u8> {
    let stub = fs::read(STUB).unwrap();
    uki::assemble(uki::Parts {
        stub: &stub,
        linux: b"MZ and a kernel",
        initrd: b"an initrd",
        cmdline: "roothash=00",
        os_release: "ID=slipway\n",
        uname: "6.12.0",
    })
    .unwrap()
}

fn of(image: &[u8]) -> Program {
    Program::of(image).unwrap()
}

/// Whether firmware starts it whose db has the certificates of these owners.
fn starts(image: &[u8], whose: &[&str]) -> bool {
    let certificates: Vec<Certificate> = whose
        .iter()
        .map(|whose| KEYS.certificate(whose, "db"))
        .collect();
    let lists = lists(Uuid::nil(), &certificates.iter().collect::<Vec<_>>());
    let firmware = Firmware {
        db: Lists::parse(&lists).unwrap(),
        dbx: Lists::default(),
    };
    Program::of(image).is_ok_and(|program| firmware.check(&program).is_ok())
}

/// sbverify's word, in the temporary directory `dir`.
fn sbverify(dir: &Path, image: &[u8], certificate: &Path) -> bool {
    let path = dir.join("program.efi");
    fs::write(&path, image).unwrap();
    let (verified, said) = tool("sbverify", &["--cert", str(certificate), str(&path)]);
    assert_eq!(
        verified,
        said.contains("Signature verification OK"),
        "{said}"
    );
    verified
}

#[test]
fn sbverify_believes_a_signature_by_its_certificate_alone() {
    let dir = tempfile::tempdir().unwrap();
    let db = KEYS.pair("mine", "db");
    let (mine, others) = (KEYS.path("mine", "db.crt"), KEYS.path("others", "db.crt"));
    for program in [loader(), unified()] {
        let signed = sign(program.clone(), &db).unwrap();
        assert!(sbverify(dir.path(), &signed, &mine));
        assert!(!sbverify(dir.path(), &signed, &others));
        assert!(!sbverify(dir.path(), &program, &mine));
        verify(&signed, &db.certificate).unwrap();
        assert!(starts(&signed, &["others", "mine"]));
        assert!(!starts(&signed, &["others"]) && !starts(&program, &["mine"]));
        for (image, certificate, why) in [
            (
                &signed,
                KEYS.certificate("others", "db"),
                "not signed by CN=Another",
            ),
            (&program, db.certificate.clone(), "is not signed"),
        ] {
            let error = verify(image, &certificate).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
        // Nothing of it depends on the moment.
        assert_eq!(signed, sign(program, &db).unwrap());
        assert_eq!(signed.len() % 8, 0);
    }
}

#[test]
fn it_differs_from_sbsigns_in_the_time_and_the_ciphers_only() {
    let dir = tempfile::tempdir().unwrap();
    let db = KEYS.pair("mine", "db");
    for program in [loader(), unified()] {
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, &program).unwrap();
        let (key, crt) = (KEYS.path("mine", "db.key"), KEYS.path("mine", "db.crt"));
        let args = [
            "--key",
            str(&key),
            "--cert",
            str(&crt),
            "--output",
            str(&to),
            str(&from),
        ];
        run("sbsign", &args);
        let (theirs, ours) = (fs::read(&to).unwrap(), sign(program, &db).unwrap());
        assert_eq!(of(&theirs).digest, of(&ours).digest);
        verify(&theirs, &db.certificate).unwrap();
        let content = |image: &[u8]| pkcs7::read(&of(image).signatures[0]).unwrap().content;
        assert_eq!(content(&theirs), content(&ours));
        // What stands before the signer's attributes is the same, sizes apart.
        let certificate = db.certificate.der();
        let at = |image: &[u8]| {
            let signature = of(image).signatures.remove(0);
            let mut windows = signature.windows(certificate.len());
            windows.position(|w| w == certificate).unwrap()
        };
        assert_eq!(at(&theirs), at(&ours));
    }
}

#[test]
fn a_second_signature_leaves_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = unified();
    for whose in ["mine", "others"] {
        image = sign(image, &KEYS.pair(whose, "db")).unwrap();
    }
    assert_eq!(of(&image).signatures.len(), 2);
    for whose in ["mine", "others"] {
        verify(&image, &KEYS.certificate(whose, "db")).unwrap();
        assert!(sbverify(dir.path(), &image, &KEYS.path(whose, "db.crt")));
    }
    verify(&image, &KEYS.certificate("mine", "KEK")).unwrap_err();
}

#[test]
fn what_would_not_be_hashed_whole_is_refused() {
    let db = KEYS.pair("mine", "db");
    let program = unified();
    let signed = sign(program.clone(), &db).unwrap();
    let pe = u32::from_le_bytes(program[0x3c..0x40].try_into().unwrap()) as usize;
    let put = |image: &[u8], at: usize, value: u32| {
        let mut image = image.to_vec();
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        image
    };
    let first_section =
        pe + 24 + usize::from(u16::from_le_bytes([program[pe + 20], program[pe + 21]]));
    let size = u32::from_le_bytes(program[first_section + 16..][..4].try_into().unwrap());
    for (image, why) in [
        (put(&program, first_section + 16, size - 512), "gaps"),
        (put(&program, pe + 168, 0x200), "not at its end"),
        (put(&program, pe + 132, 4), "no place"),
        ([&signed[..], b"more"].concat(), "not at its end"),
        (signed[..signed.len() - 8].to_vec(), "not at its end"),
        (b"MZ".to_vec(), "no valid EFI program"),
        (Vec::new(), "no valid EFI program"),
    ] {
        let error = sign(image, &db).unwrap_err();
        assert!(error.message().contains(why), "{error}");
    }
}

/// Where the certificate table begins.
fn table(image: &[u8]) -> usize {
    let [_, directory] = unhashed(image);
    u32::from_le_bytes(image[directory][..4].try_into().unwrap()) as usize
}

/// Where a signed program's bytes don't count: checksum, and the certificate table's place.
fn unhashed(image: &[u8]) -> [std::ops::Range<usize>; 2] {
    let pe = u32::from_le_bytes(image[0x3c..0x40].try_into().unwrap()) as usize;
    [pe + 88..pe + 92, pe + 168..pe + 176]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_changed_byte_of_a_program_is_noticed(
        at in any::<prop::sample::Index>(),
        bits in 1u8..,
    ) {
        let certificate = KEYS.certificate("mine", "db");
        let mut image = sign(loader(), &KEYS.pair("mine", "db")).unwrap();
        let at = at.index(table(&image));
        image[at] ^= bits;
        let counts = !unhashed(&image).iter().any(|range| range.contains(&at));
        let verified = verify(&image, &certificate).is_ok();
        prop_assert!(!(counts && verified), "byte {at} was changed to {:#x}", image[at]);
        prop_assert_eq!(starts(&image, &["mine"]), verified);
    }

    #[test]
    fn no_table_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let certificate = KEYS.certificate("mine", "db");
        let mut image = sign(unified(), &KEYS.pair("mine", "db")).unwrap();
        let table = table(&image);
        let size = image.len() - table;
        for (at, byte) in changes {
            image[table + at.index(size)] = byte;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        let verified = verify(&image, &certificate).is_ok();
        // What a node asks is no less than what a builder asks.
        prop_assert!(verified || !starts(&image, &["mine"]));
        prop_assert!(!starts(&image, &["others"]));
        if let Ok(program) = Program::of(&image) {
            for der in &program.signatures {
                drop(pkcs7::read(der).map(|signed| signed.signers()));
            }
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(pkcs7::read(&bytes));
        drop(Program::of(&bytes));
    }
}
