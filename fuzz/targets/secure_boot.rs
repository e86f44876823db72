//! What Secure Boot goes by: a signed program, a signature, a certificate, signature lists. The
//! first byte says which.

#![no_main]

use std::hint::black_box;

use libfuzzer_sys::fuzz_target;
use slipway_images::secure_boot::authenticode::Program;
use slipway_images::secure_boot::lists::Lists;
use slipway_images::secure_boot::{Certificate, Firmware, pkcs7};

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    match which % 4 {
        0 => {
            if let Ok(program) = Program::of(bytes) {
                assert!(Firmware::default().check(&program).is_err());
            }
        }
        1 => drop(pkcs7::read(bytes).and_then(|signed| signed.signers())),
        2 => {
            if let Ok(certificate) = Certificate::parse(bytes) {
                black_box(certificate.has_issued(&certificate));
            }
        }
        _ => drop(Lists::parse(bytes)),
    }
});
