use std::fmt::Write as _;
use std::process::Command as Process;

use super::*;
use proptest::prelude::*;

/// The offsets against the kernel's own header, which libc6-dev brings along.
#[test]
fn layout_is_the_kernels() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("offsets.c");
    let mut facts = String::new();
    let field = |kind: &str, name: &str| format!("__builtin_offsetof(struct {kind}, {name})");
    let mut same = |what: &str, ours: usize| {
        writeln!(facts, "_Static_assert({what} == {ours}, \"{what}\");").unwrap();
    };
    same("sizeof(struct dm_ioctl)", HEADER);
    for (name, ours) in [
        ("data_size", DATA_SIZE),
        ("data_start", DATA_START),
        ("target_count", TARGET_COUNT),
        ("flags", FLAGS),
        ("dev", DEVICE),
        ("name", NAME),
        ("uuid", UUID),
    ] {
        same(&field("dm_ioctl", name), ours);
    }
    same("DM_NAME_LEN", NAME_BYTES);
    same("DM_UUID_LEN", UUID_BYTES);
    same("sizeof(struct dm_target_spec)", SPEC);
    for (name, ours) in [
        ("sector_start", 0),
        ("length", SPEC_LENGTH),
        ("next", SPEC_NEXT),
        ("target_type", SPEC_TYPE),
    ] {
        same(&field("dm_target_spec", name), ours);
    }
    same("DM_MAX_TYPE_NAME", SPEC_TYPE_BYTES);
    for (name, ours) in [
        ("DM_READONLY_FLAG", READ_ONLY),
        ("DM_STATUS_TABLE_FLAG", STATUS_TABLE),
        ("DM_BUFFER_FULL_FLAG", BUFFER_FULL),
        ("DM_SECURE_DATA_FLAG", SECURE_DATA),
    ] {
        same(name, ours as usize);
    }
    for (name, ours) in [
        ("DM_DEV_CREATE_CMD", Command::Create),
        ("DM_DEV_REMOVE_CMD", Command::Remove),
        ("DM_DEV_SUSPEND_CMD", Command::Suspend),
        ("DM_TABLE_LOAD_CMD", Command::Load),
        ("DM_TABLE_STATUS_CMD", Command::Status),
    ] {
        same(name, ours as usize);
    }
    std::fs::write(&source, format!("#include <linux/dm-ioctl.h>\n{facts}")).unwrap();
    let out = Process::new("gcc")
        .arg("-fsyntax-only")
        .arg(&source)
        .output()
        .expect("gcc is needed (ci/setup installs it)");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn target(start: u64, sectors: u64, kind: &str, parameters: &str) -> Target {
    Target {
        start,
        sectors,
        kind: kind.into(),
        parameters: parameters.to_owned().into(),
    }
}

/// A command's table as an answer has it: `next` counts from the data's start.
fn answered(mut command: Buffer) -> Buffer {
    let mut at = HEADER;
    for _ in 0..command.u32(TARGET_COUNT) {
        let next = at + command.u32(at + SPEC_NEXT) as usize;
        command.set_u32(at + SPEC_NEXT, (next - HEADER) as u32);
        at = next;
    }
    command
}

#[test]
fn tables_are_written_and_read() {
    let table = [
        target(0, 8, "verity", "1 /dev/vda2 /dev/vda2 4096 4096"),
        target(8, 1 << 40, "crypt", ""),
    ];
    let buffer = Buffer::with_table("root", &table).unwrap();
    assert_eq!(buffer.u32(DATA_SIZE) as usize, buffer.0.len());
    assert_eq!(buffer.u32(HEADER + SPEC_NEXT) % 8, 0);
    assert_eq!(answered(buffer).table().unwrap(), table);
    assert_eq!(Buffer::with_table("x", &[]).unwrap().table().unwrap(), []);
}

#[test]
fn a_key_is_not_shown() {
    let shown = format!("{:?}", target(0, 8, "crypt", "aes-xts-plain64 5ec2e7"));
    assert_eq!(shown, "0 8 crypt");
}

#[test]
fn what_does_not_fit_is_refused() {
    for name in ["", "a/b", "a\0b", &"n".repeat(NAME_BYTES)] {
        assert!(Buffer::new(name, HEADER).is_err(), "{name:?}");
    }
    assert!(Buffer::new(&"n".repeat(NAME_BYTES - 1), HEADER).is_ok());
    let kind = "k".repeat(SPEC_TYPE_BYTES);
    assert!(Buffer::with_table("x", &[target(0, 1, &kind, "")]).is_err());
    assert!(Buffer::with_table("x", &[target(0, 1, "verity", "a\0b")]).is_err());
}

#[test]
fn numbers_of_devices_are_split_as_the_kernel_joins_them() {
    for (major, number) in [(253, 0), (253, 7), (254, 255), (253, 256), (253, 0xf_ffff)] {
        assert_eq!(minor(nix::sys::stat::makedev(major, number)), number);
    }
}

/// The ioctl's wrapper hands the kernel no buffer that names more than it has.
#[test]
fn a_buffer_that_lies_about_its_length_is_refused() {
    let mut buffer = Buffer::new("x", HEADER).unwrap();
    buffer.set_u32(DATA_SIZE, HEADER as u32 + 1);
    let null = File::open("/dev/null").unwrap();
    let refused = sys::device_mapper(&null, 0, &mut buffer.0).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::EINVAL as i32));
    let mut short = vec![0; 8];
    assert!(sys::device_mapper(&null, 0, &mut short).is_err());
    // One that does not gets as far as a device that knows no such command.
    let mut buffer = Buffer::new("x", HEADER).unwrap();
    let refused = sys::device_mapper(&null, 0, &mut buffer.0).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ENOTTY as i32));
}

proptest! {
    #[test]
    fn any_table_comes_back(
        table in proptest::collection::vec((any::<u64>(), any::<u64>(), "[a-z]{1,15}", "[ -~]{0,60}"), 0..5),
    ) {
        let table: Vec<Target> = table.iter().map(|(a, b, k, p)| target(*a, *b, k, p)).collect();
        let buffer = Buffer::with_table("x", &table).unwrap();
        prop_assert_eq!(answered(buffer).table().unwrap(), table);
    }

    #[test]
    fn answers_of_nonsense_neither_panic_nor_hang(
        bytes in proptest::collection::vec(any::<u8>(), HEADER..HEADER + 200),
        start in 0u32..600,
        count in 0u32..6,
    ) {
        let mut buffer = Buffer(bytes);
        drop(buffer.table());
        buffer.set_u32(DATA_START, start);
        buffer.set_u32(TARGET_COUNT, count);
        drop(buffer.table());
    }
}
