//! The check that a program is what an image needs: an ELF executable for the
//! right machine that asks for no interpreter, since there is none for it.
//! Source: System V ABI, chapters 4 and 5; `elf.h`.

use object::elf::{
    EM_AARCH64, EM_ARM, EM_X86_64, ET_DYN, ET_EXEC, FileHeader32, FileHeader64, FileType, Machine,
    PT_INTERP,
};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind};

use crate::board::Architecture;
use crate::error::{Error, Kind, Result};

/// Checks the bytes of a program called `name`.
///
/// # Errors
/// [`Kind::Tool`]: the compiler gave something that a node can't run.
pub fn check(name: &str, bytes: &[u8], arch: Architecture) -> Result<()> {
    let fault = |what: String| Error::new(Kind::Tool, format!("program `{name}` {what}"));
    let parsed = match FileKind::parse(bytes) {
        Ok(FileKind::Elf32) => facts::<FileHeader32<Endianness>>(bytes),
        Ok(FileKind::Elf64) => facts::<FileHeader64<Endianness>>(bytes),
        Ok(_) | Err(_) => return Err(fault("is no ELF file".into())),
    };
    let (machine, kind, interpreter) = parsed.map_err(|e| fault(format!("is broken: {e}")))?;
    let wanted = match arch {
        Architecture::Amd64 => EM_X86_64,
        Architecture::Arm64 => EM_AARCH64,
        Architecture::Armhf => EM_ARM,
    };
    if machine != wanted {
        return Err(fault(format!(
            "is for machine {}, not for {arch} ({})",
            machine.0, wanted.0
        )));
    }
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(fault("can't be executed".into()));
    }
    if interpreter {
        return Err(
            fault("is dynamically linked, and the image has no linker for it".into())
                .hint("a dependency brought C code or turned static linking off"),
        );
    }
    Ok(())
}

/// `e_machine`, `e_type`, and whether there is a `PT_INTERP`.
fn facts<H: FileHeader<Endian = Endianness>>(
    bytes: &[u8],
) -> Result<(Machine, FileType, bool), object::read::Error> {
    let header = H::parse(bytes)?;
    let endian = header.endian()?;
    let interpreter = header
        .program_headers(endian, bytes)?
        .iter()
        .any(|p| p.p_type(endian) == PT_INTERP);
    Ok((header.e_machine(endian), header.e_type(endian), interpreter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::elf::ProgramType as SegmentType;

    /// The smallest ELF64 header with `count` program headers of one type.
    fn program(machine: Machine, p_type: SegmentType) -> Vec<u8> {
        let mut b = vec![0; 64 + 56];
        b[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        b[16..18].copy_from_slice(&ET_EXEC.0.to_le_bytes());
        b[18..20].copy_from_slice(&machine.0.to_le_bytes());
        b[20] = 1;
        b[32..40].copy_from_slice(&64u64.to_le_bytes());
        b[52..54].copy_from_slice(&64u16.to_le_bytes());
        b[54..56].copy_from_slice(&56u16.to_le_bytes());
        b[56..58].copy_from_slice(&1u16.to_le_bytes());
        b[64..68].copy_from_slice(&p_type.0.to_le_bytes());
        b
    }

    #[test]
    fn static_programs_of_the_right_machine_pass_and_nothing_else() {
        let load = object::elf::PT_LOAD;
        check("a", &program(EM_X86_64, load), Architecture::Amd64).unwrap();
        check("a", &program(EM_AARCH64, load), Architecture::Arm64).unwrap();
        let refused = |bytes: &[u8], arch| check("a", bytes, arch).unwrap_err().to_string();
        assert!(refused(&program(EM_X86_64, load), Architecture::Arm64).contains("not for arm64"));
        assert!(
            refused(&program(EM_X86_64, PT_INTERP), Architecture::Amd64).contains("dynamically")
        );
        assert!(refused(b"#!/bin/sh\n", Architecture::Amd64).contains("no ELF"));
        assert!(refused(&program(EM_X86_64, load)[..70], Architecture::Amd64).contains("broken"));
    }

    #[test]
    fn the_hosts_own_shell_is_refused() {
        let shell = std::fs::read("/bin/bash").unwrap();
        assert!(check("bash", &shell, Architecture::Amd64).is_err());
    }

    proptest::proptest! {
        #[test]
        fn bytes_never_panic(tail: Vec<u8>, class in 1u8..3, order in 1u8..3) {
            let mut bytes = vec![0x7f, b'E', b'L', b'F', class, order, 1];
            bytes.extend(tail);
            assert!(check("x", &bytes, Architecture::Amd64).is_err());
        }
    }
}
