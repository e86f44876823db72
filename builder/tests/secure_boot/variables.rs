//! What firmware is told, against efitools.

use std::fs;

use proptest::prelude::*;
use slipway::formats::efi_variable::{Authenticated, Variable, authenticated, lists};
use slipway_images::secure_boot::Certificate;
use slipway_images::secure_boot::lists::Lists;
use uuid::Uuid;

use super::{KEYS, run, str};

const OWNER: Uuid = Uuid::from_u128(0x11223344_5566_7788_99aa_bbccddeeff00);
const AT: i64 = 1_790_000_000;
const SHOWN: &str = "2026-09-21 14:13:20";

/// The variable, whose certificate is in it, and who signs.
const WHO: [(Variable, &str, &str); 3] = [
    (Variable::Pk, "PK", "PK"),
    (Variable::Kek, "KEK", "PK"),
    (Variable::Db, "db", "KEK"),
];

#[test]
fn files_are_those_of_efitools_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (variable, name, signer) in WHO {
        let ours = lists(OWNER, &[&KEYS.certificate("mine", name)]);
        let (list, auth) = (at("list"), at("auth"));
        let owner = OWNER.to_string();
        let crt = KEYS.path("mine", &format!("{name}.crt"));
        run(
            "cert-to-efi-sig-list",
            &["-g", &owner, str(&crt), str(&list)],
        );
        assert_eq!(fs::read(&list).unwrap(), ours, "{name}");

        let key = KEYS.path("mine", &format!("{signer}.key"));
        let crt = KEYS.path("mine", &format!("{signer}.crt"));
        let sign = ["-t", SHOWN, "-k", str(&key), "-c", str(&crt)];
        run(
            "sign-efi-sig-list",
            &[&sign[..], &[name, str(&list), str(&auth)]].concat(),
        );
        let ours = authenticated(variable, &ours, AT, &KEYS.pair("mine", signer)).unwrap();
        assert_eq!(fs::read(&auth).unwrap(), ours, "{name}");
    }
}

#[test]
fn several_certificates_come_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        KEYS.certificate("mine", "db"),
        KEYS.certificate("others", "db"),
    );
    let list = dir.path().join("list");
    let bytes = lists(OWNER, &[&one, &two]);
    fs::write(&list, &bytes).unwrap();
    let out = dir.path().join("out");
    run("sig-list-to-certs", &[str(&list), str(&out)]);
    for (n, certificate) in [&one, &two].into_iter().enumerate() {
        let der = fs::read(dir.path().join(format!("out-{n}.der"))).unwrap();
        assert_eq!(der, certificate.der());
    }
    let file = authenticated(Variable::Db, &bytes, AT, &KEYS.pair("mine", "KEK")).unwrap();
    let read = Authenticated::parse(&file).unwrap();
    assert_eq!(read.certificates().unwrap(), [one.der(), two.der()]);
}

#[test]
fn a_file_is_for_one_variable_and_of_one_signer() {
    for (variable, name, signer) in WHO {
        let file = fs::read(KEYS.path("mine", &format!("{name}.auth"))).unwrap();
        let read = Authenticated::parse(&file).unwrap();
        read.verify(variable, &KEYS.certificate("mine", signer))
            .unwrap();
        read.verify(variable, &KEYS.certificate("others", signer))
            .unwrap_err();
        for other in Variable::ALL.into_iter().filter(|v| *v != variable) {
            read.verify(other, &KEYS.certificate("mine", signer))
                .unwrap_err();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_change_is_noticed_and_none_makes_it_panic(
        at in any::<prop::sample::Index>(),
        bits in 1u8..,
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let signer = KEYS.certificate("mine", "KEK");
        let mut file = fs::read(KEYS.path("mine", "db.auth")).unwrap();
        let length = u32::from_le_bytes(file[16..20].try_into().unwrap()) as usize;
        let at = at.index(file.len());
        file[at] ^= bits;
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        if let Ok(read) = Authenticated::parse(&file) {
            drop(read.certificates());
            // The signature's own certificate and wrapping say nothing to who knows the key.
            let of_signature = (40..16 + length).contains(&at);
            let verified = read.verify(Variable::Db, &signer).is_ok();
            prop_assert!(!verified || of_signature, "byte {at}");
        }
    }

    #[test]
    fn damaged_lists_and_certificates_are_refused_or_others(
        at in any::<prop::sample::Index>(),
        bits in 1u8..,
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
    ) {
        let (one, two) = (KEYS.certificate("mine", "db"), KEYS.certificate("others", "db"));
        let good = lists(OWNER, &[&one, &two]);
        let mut flipped = good.clone();
        flipped[at.index(good.len())] ^= bits;
        let (from, to) = (from.index(good.len()), to.index(good.len()));
        let spliced = [&good[..to], &good[from..]].concat();
        for lists in [&flipped, &spliced, &good[..to].to_vec()] {
            drop(Lists::parse(lists));
        }
        let der = one.der();
        // What its issuer has signed, behind two headers of 4 bytes.
        let signed = 8..8 + usize::from(u16::from_be_bytes([der[6], der[7]]));
        let mut changed = der.to_vec();
        let at = at.index(der.len());
        changed[at] ^= bits;
        if let Ok(read) = Certificate::parse(&changed) {
            prop_assert!(!(signed.contains(&at) && one.has_issued(&read)), "{at:?}");
        }
        prop_assert!(Certificate::parse(&der[..to.min(der.len() - 1)]).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(read) = Authenticated::parse(&bytes) {
            drop(read.certificates());
        }
        drop(Lists::parse(&bytes));
        drop(Certificate::parse(&bytes));
    }
}
