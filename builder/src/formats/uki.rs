//! A unified kernel image: systemd's EFI stub with kernel, initrd and command line as
//! sections of one PE/COFF file, which the firmware starts and, later, verifies whole.
//!
//! | offset | size | field of PE32+ that we read or write |
//! |---|---|---|
//! | 0 | 2 | `MZ` |
//! | 0x3c | 4 | e_lfanew: offset *p* of the next |
//! | p | 4 | `PE\0\0` |
//! | p+6 | 2 | NumberOfSections |
//! | p+12 | 8 | PointerToSymbolTable, NumberOfSymbols: 0, since the file's end moves |
//! | p+20 | 2 | SizeOfOptionalHeader |
//! | p+24 | 2 | optional header's Magic: 0x20b |
//! | p+28, p+32 | 4, 4 | SizeOfCode, SizeOfInitializedData |
//! | p+56, p+60 | 4, 4 | SectionAlignment, FileAlignment |
//! | p+80, p+84 | 4, 4 | SizeOfImage, SizeOfHeaders |
//! | p+88 | 4 | CheckSum: 0, as for every EFI program |
//! | p+132 | 4 | NumberOfRvaAndSizes; the fifth pair at p+168 is the certificate table |
//! | p+24+SizeOfOptionalHeader | 40 each | section table |
//!
//! | offset in a section's entry | size | field |
//! |---|---|---|
//! | 0 | 8 | Name |
//! | 8 | 4 | VirtualSize: the content's exact size |
//! | 12 | 4 | VirtualAddress |
//! | 16 | 4 | SizeOfRawData: VirtualSize rounded up to FileAlignment |
//! | 20 | 4 | PointerToRawData |
//! | 36 | 4 | Characteristics |
//!
//! Sources: Microsoft's PE format; the UAPI Group's UKI specification; systemd-stub(7).
//! `.linux` comes last, since kernels decompress themselves in place and may write beyond.

use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ImageNtHeaders as _, ImageOptionalHeader as _};

use crate::error::{Error, Kind, Result};

/// What a UKI is put together from.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// `linuxx64.efi.stub` or its like for another architecture.
    pub stub: &'a [u8],
    /// The kernel, an EFI program itself (bzImage, Image).
    pub linux: &'a [u8],
    /// The initrd, a cpio archive, compressed as the kernel likes or not.
    pub initrd: &'a [u8],
    /// The kernel's command line, ASCII without line breaks.
    pub cmdline: &'a str,
    /// The text of `os-release`, from which boot menus take title and version.
    pub os_release: &'a str,
    /// The kernel's release, `uname -r`.
    pub uname: &'a str,
}

/// A section that was found in a UKI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section<'a> {
    /// `.linux` and so on.
    pub name: String,
    /// Where it is loaded, relative to the image.
    pub address: u32,
    /// Its content.
    pub data: &'a [u8],
}

/// What sections take at least: firmware maps pages.
const PAGE: u32 = 4096;

const SECTION_ENTRY: usize = 40;

/// The text of `os-release` as a UKI in a slot has it: without a version. systemd-boot would
/// sort by that before it looks at names, and they say which slot is to be tried first. The
/// menu's title comes from `PRETTY_NAME`, which tells the version all the same.
#[must_use]
pub fn without_version(os_release: &str) -> String {
    let keys = ["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"];
    let kept = os_release.lines().filter(|line| {
        let key = line.split_once('=').map_or("", |(key, _)| key.trim());
        !keys.contains(&key)
    });
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// Puts the parts together.
///
/// # Errors
/// [`Kind::Input`] for a stub or kernel that is none, and for a command line that the
/// firmware's text wouldn't carry.
pub fn assemble(parts: Parts<'_>) -> Result<Vec<u8>> {
    let mut cmdline = parts.cmdline.trim_end();
    if let Some(bad) = cmdline.chars().find(|c| !matches!(c, ' '..='~')) {
        return Err(refuse(format!(
            "the kernel command line has the character {bad:?}; it takes printable ASCII only"
        )));
    }
    if cmdline.is_empty() {
        // A section of length 0 is no section for some firmware.
        cmdline = " ";
    }
    if parts.linux.get(..2) != Some(b"MZ") {
        return Err(refuse("the kernel is no EFI program".into())
            .hint("it needs CONFIG_EFI_STUB, and must be bzImage or Image, not vmlinux or .gz"));
    }
    let mut image = Headers::parse(parts.stub)?;
    image.append(b".osrel", parts.os_release.as_bytes())?;
    image.append(b".cmdline", cmdline.as_bytes())?;
    image.append(b".uname", parts.uname.as_bytes())?;
    image.append(b".initrd", parts.initrd)?;
    image.append(b".linux", parts.linux)?;
    image.finish()
}

/// Reads a UKI's sections back, whoever made it.
///
/// # Errors
/// [`Kind::Input`] for what is no PE32+ file or has sections outside of itself.
pub fn read(bytes: &[u8]) -> Result<Vec<Section<'_>>> {
    let wrong = |e: object::Error| refuse(format!("no valid EFI program: {e}"));
    let dos = pe::ImageDosHeader::parse(bytes).map_err(wrong)?;
    let mut offset = dos.nt_headers_offset().into();
    let (nt, _) = pe::ImageNtHeaders64::parse(bytes, &mut offset).map_err(wrong)?;
    let table = nt.sections(bytes, offset).map_err(wrong)?;
    let size_of_image = nt.optional_header().size_of_image();
    let mut sections = Vec::new();
    let mut end = nt.optional_header().size_of_headers();
    for section in table.iter() {
        let raw_name = section.raw_name();
        let name = String::from_utf8_lossy(raw_name).into_owned();
        let (address, size) = (
            section.virtual_address.get(LE),
            section.virtual_size.get(LE),
        );
        let raw = section
            .pe_data(bytes)
            .map_err(|e| refuse(format!("section {name}: {e}")))?;
        let data = raw.get(..size as usize).unwrap_or(raw);
        let after = address.checked_add(size).filter(|a| *a <= size_of_image);
        match after {
            Some(after) if address >= end => end = after,
            _ => {
                return Err(refuse(format!(
                    "section {name} lies over another one or outside of the image"
                )));
            }
        }
        sections.push(Section {
            name,
            address,
            data,
        });
    }
    Ok(sections)
}

/// The image that grows, and the fields of its header that must follow.
struct Headers {
    bytes: Vec<u8>,
    /// Offset of `PE\0\0`.
    pe: usize,
    section_table: usize,
    sections: u16,
    section_alignment: u32,
    file_alignment: u32,
    /// Where the section table may not go beyond.
    headers_end: usize,
    /// First address that is free.
    next_address: u32,
    code: u32,
    data: u32,
}

impl Headers {
    fn parse(stub: &[u8]) -> Result<Self> {
        let no_stub = |e: String| {
            refuse(format!("the EFI stub: {e}"))
                .hint("it is `linux*.efi.stub` from the package systemd-boot-efi")
        };
        read(stub).map_err(|e| no_stub(e.message().to_owned()))?;
        // `read` has proved the headers to be there and consistent.
        let pe = get32(stub, 0x3c) as usize;
        let section_table = pe + 24 + usize::from(get16(stub, pe + 20));
        let mut headers = Self {
            pe,
            section_table,
            sections: get16(stub, pe + 6),
            section_alignment: get32(stub, pe + 56),
            file_alignment: get32(stub, pe + 60),
            headers_end: get32(stub, pe + 84) as usize,
            next_address: 0,
            code: get32(stub, pe + 28),
            data: get32(stub, pe + 32),
            bytes: Vec::new(),
        };
        let powers = [headers.section_alignment, headers.file_alignment];
        if !powers
            .iter()
            .all(|a| a.is_power_of_two() && *a <= 1 << 16 && *a >= 16)
        {
            return Err(no_stub("its alignments make no sense".into()));
        }
        let mut end = headers.headers_end;
        for i in 0..usize::from(headers.sections) {
            let entry = section_table + i * SECTION_ENTRY;
            let (size, address) = (get32(stub, entry + 8), get32(stub, entry + 12));
            let (raw_size, raw) = (get32(stub, entry + 16), get32(stub, entry + 20));
            headers.next_address = headers.next_address.max(address.saturating_add(size));
            if raw_size > 0 {
                end = end.max((raw as usize).saturating_add(raw_size as usize));
                headers.headers_end = headers.headers_end.min(raw as usize);
            }
        }
        // What lies behind the last section, such as a signature, is not of the program.
        headers.bytes = stub[..end.min(stub.len())].to_vec();
        Ok(headers)
    }

    fn append(&mut self, name: &[u8], content: &[u8]) -> Result<()> {
        let shown = String::from_utf8_lossy(name).into_owned();
        let entry = self.section_table + usize::from(self.sections) * SECTION_ENTRY;
        if entry + SECTION_ENTRY > self.headers_end {
            return Err(refuse(format!(
                "the EFI stub's header has no room for the section {shown}: it ends at byte {}",
                self.headers_end
            ))
            .hint("take the stub of another version of systemd"));
        }
        let too_large = || refuse(format!("section {shown} makes the image larger than 2 GiB"));
        let size = u32::try_from(content.len()).map_err(|_| too_large())?;
        let alignment = self.section_alignment.max(PAGE);
        let address = self
            .next_address
            .checked_next_multiple_of(alignment)
            .ok_or_else(too_large)?;
        self.pad();
        let raw = u32::try_from(self.bytes.len()).map_err(|_| too_large())?;
        self.bytes.extend_from_slice(content);
        self.pad();
        let raw_size = u32::try_from(self.bytes.len()).map_err(|_| too_large())? - raw;
        self.next_address = address
            .checked_add(size)
            .filter(|end| *end < 1 << 31 && raw < 1 << 31)
            .ok_or_else(too_large)?;
        let characteristics = if name == b".linux" {
            // As ukify does: kernels of the EFI handover protocol are run where they lie.
            self.code = self.code.saturating_add(raw_size);
            pe::IMAGE_SCN_CNT_CODE | pe::IMAGE_SCN_MEM_EXECUTE | pe::IMAGE_SCN_MEM_READ
        } else {
            self.data = self.data.saturating_add(raw_size);
            pe::IMAGE_SCN_CNT_INITIALIZED_DATA | pe::IMAGE_SCN_MEM_READ
        };
        let e = &mut self.bytes[entry..entry + SECTION_ENTRY];
        e.fill(0);
        e[..name.len()].copy_from_slice(name);
        e[8..12].copy_from_slice(&size.to_le_bytes());
        e[12..16].copy_from_slice(&address.to_le_bytes());
        e[16..20].copy_from_slice(&raw_size.to_le_bytes());
        e[20..24].copy_from_slice(&raw.to_le_bytes());
        e[36..40].copy_from_slice(&characteristics.0.to_le_bytes());
        self.sections += 1;
        Ok(())
    }

    fn pad(&mut self) {
        let len = self
            .bytes
            .len()
            .next_multiple_of(self.file_alignment as usize);
        self.bytes.resize(len, 0);
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        let alignment = self.section_alignment.max(PAGE);
        let size = self.next_address.next_multiple_of(alignment);
        let p = self.pe;
        self.put16(p + 6, self.sections);
        self.put32(p + 12, 0);
        self.put32(p + 16, 0);
        self.put32(p + 28, self.code);
        self.put32(p + 32, self.data);
        self.put32(p + 80, size);
        self.put32(p + 88, 0);
        if get32(&self.bytes, p + 132) > 4 {
            self.put32(p + 168, 0);
            self.put32(p + 172, 0);
        }
        // The writer's work is read by another hand before it is believed.
        read(&self.bytes)?;
        Ok(self.bytes)
    }

    fn put16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn put32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

pub(super) fn get16(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u16::from_le_bytes)
}

pub(super) fn get32(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn refuse(message: String) -> Error {
    Error::new(Kind::Input, message)
}
