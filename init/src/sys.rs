//! The one place for `unsafe`: system calls and ioctls that `nix` and `std` do not wrap.
//!
//! | call | defined in |
//! |---|---|
//! | BLKRRPART | linux/fs.h |
//! | BLKDISCARD | linux/fs.h |
//! | RNDADDENTROPY | linux/random.h |
//! | WDIOC_SETTIMEOUT, WDIOC_GETTIMEOUT | linux/watchdog.h |
//! | TIOCGWINSZ | asm-generic/ioctls.h |
//! | TIOCLINUX | ioctl_console(2) |
//! | FS_IOC_GETFSLABEL, FS_IOC_SETFSLABEL | linux/fs.h |
//! | EXT4_IOC_RESIZE_FS | fs/ext4/ext4.h |
//! | adjtimex | sys/timex.h |
//! | AF_PACKET sockets | packet(7) |
//! | DM_* | linux/dm-ioctl.h |
#![expect(unsafe_code, reason = "system calls without a safe wrapper")]

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;

mod ioctl {
    use nix::{ioctl_none_bad, ioctl_read, ioctl_readwrite, ioctl_write_ptr, ioctl_write_ptr_bad};
    ioctl_none_bad!(blkrrpart, nix::request_code_none!(0x12, 95));
    ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    // _IOW('R', 0x03, int[2]), whose argument is really longer.
    ioctl_write_ptr_bad!(
        rndaddentropy,
        nix::request_code_write!(b'R', 0x03, 2 * size_of::<libc::c_int>()),
        super::RandPoolInfo
    );
    ioctl_readwrite!(wdioc_settimeout, b'W', 6, libc::c_int);
    ioctl_read!(wdioc_gettimeout, b'W', 7, libc::c_int);
    ioctl_read!(fs_ioc_getfslabel, 0x94, 49, [u8; 256]);
    ioctl_write_ptr!(fs_ioc_setfslabel, 0x94, 50, [u8; 256]);
    ioctl_write_ptr!(ext4_ioc_resize_fs, b'f', 16, u64);
    nix::ioctl_read_bad!(tiocgwinsz, libc::TIOCGWINSZ, libc::winsize);
    ioctl_write_ptr_bad!(tioclinux, 0x541c, [u8; 2]);
}

/// `struct rand_pool_info` with room for a seed file.
#[repr(C)]
struct RandPoolInfo {
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    buf: [u8; 512],
}

fn checked(result: nix::Result<libc::c_int>) -> io::Result<()> {
    result.map(drop).map_err(io::Error::from)
}

/// Makes the child that `command` starts join a cgroup and take an OOM score before it
/// runs, with no signal blocked and as the leader of a session of its own.
///
/// `cgroup_procs` is the group's opened `cgroup.procs`, `oom_score` the opened
/// `/proc/self/oom_score_adj` trick is not possible before the fork, so the score is
/// written by path in the child.
pub fn prepare_child(command: &mut Command, cgroup_procs: Option<File>, oom_score: Option<i32>) {
    let oom_text = oom_score.map(|score| score.to_string().into_bytes());
    let child = move || {
        // Only async-signal-safe calls between fork and exec: the parent has threads.
        if let Some(file) = &cgroup_procs {
            // "0" is the writing process itself (cgroups(7)).
            // SAFETY: the buffer is valid for its length; the descriptor is open.
            if unsafe { libc::write(file.as_raw_fd(), b"0".as_ptr().cast(), 1) } != 1 {
                return Err(io::Error::last_os_error());
            }
        }
        if let Some(text) = &oom_text {
            let path = c"/proc/self/oom_score_adj";
            // SAFETY: path and buffer are valid; open and write are async-signal-safe.
            unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                // A lower score needs a capability that a test does not have: go on without.
                if fd >= 0 {
                    libc::write(fd, text.as_ptr().cast(), text.len());
                    libc::close(fd);
                }
            }
        }
        // SAFETY: an all-zero sigset_t is made empty by sigemptyset before use.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
            libc::setsid();
        }
        Ok(())
    };
    // SAFETY: the closure makes only async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(child) };
}

/// Has the kernel read the partition table again.
///
/// # Errors
/// EBUSY while a partition is in use, EINVAL for what has no partitions.
pub fn reread_partition_table(disk: &File) -> io::Result<()> {
    // SAFETY: the ioctl takes no argument.
    checked(unsafe { ioctl::blkrrpart(disk.as_raw_fd()) })
}

/// Tells a block device that a range of bytes is not needed any more.
///
/// # Errors
/// EOPNOTSUPP where the device can't, ENOTTY where it is none.
pub fn discard(device: &File, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: the kernel reads two u64.
    checked(unsafe { ioctl::blkdiscard(device.as_raw_fd(), &raw const range) })
}

/// Makes a range of a block device, or of a file, read as zeros without writing them.
///
/// # Errors
/// EOPNOTSUPP where the device has no quick way.
pub fn zero_quickly(device: &File, offset: u64, length: u64) -> io::Result<()> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let number = |n: u64| libc::off_t::try_from(n).map_err(io::Error::other);
    // A block device unmaps, or refuses rather than write for minutes (block/fops.c).
    let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(device, mode, number(offset)?, number(length)?).map_err(io::Error::from)
}

/// Mixes `seed` into the kernel's pool and credits all its bits. At most 512 bytes are used.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN.
pub fn add_entropy(random: &File, seed: &[u8]) -> io::Result<()> {
    let mut info = RandPoolInfo {
        entropy_count: 0,
        buf_size: 0,
        buf: [0; 512],
    };
    let length = seed.len().min(info.buf.len());
    info.buf[..length].copy_from_slice(&seed[..length]);
    info.buf_size = length as libc::c_int;
    info.entropy_count = info.buf_size * 8;
    // SAFETY: the struct has the kernel's layout and holds buf_size bytes.
    checked(unsafe { ioctl::rndaddentropy(random.as_raw_fd(), &raw const info) })
}

/// Sets the watchdog's time-out in seconds and gives what the driver made of it.
///
/// # Errors
/// EOPNOTSUPP where the hardware's is fixed.
pub fn watchdog_timeout(watchdog: &File, seconds: i32) -> io::Result<i32> {
    let mut value: libc::c_int = seconds;
    // SAFETY: the argument is a valid int that the driver reads and writes.
    checked(unsafe { ioctl::wdioc_settimeout(watchdog.as_raw_fd(), &raw mut value) })?;
    Ok(value)
}

/// The watchdog's time-out in seconds.
///
/// # Errors
/// EOPNOTSUPP where it has none.
pub fn watchdog_own_timeout(watchdog: &File) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    // SAFETY: the argument is a valid int that the driver writes.
    checked(unsafe { ioctl::wdioc_gettimeout(watchdog.as_raw_fd(), &raw mut value) })?;
    Ok(value)
}

/// A mounted filesystem's label.
///
/// # Errors
/// ENOTTY where the filesystem has none.
pub fn filesystem_label(mount_point: &File) -> io::Result<String> {
    let mut buffer = [0u8; 256];
    // SAFETY: the kernel writes at most FSLABEL_MAX = 256 bytes.
    checked(unsafe { ioctl::fs_ioc_getfslabel(mount_point.as_raw_fd(), &raw mut buffer) })?;
    let label = buffer.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(label).into_owned())
}

/// Sets a mounted filesystem's label, in all its superblocks (ext4, Linux 5.17 and later).
///
/// # Errors
/// ENOTTY where the filesystem cannot, EINVAL for a label too long.
pub fn set_filesystem_label(mount_point: &File, label: &str) -> io::Result<()> {
    let mut buffer = [0u8; 256];
    let length = label.len().min(255);
    buffer[..length].copy_from_slice(&label.as_bytes()[..length]);
    // SAFETY: the kernel reads FSLABEL_MAX = 256 bytes.
    checked(unsafe { ioctl::fs_ioc_setfslabel(mount_point.as_raw_fd(), &raw const buffer) })
}

/// Grows a mounted ext4 to `blocks` of its block size: what `resize2fs` does online.
///
/// # Errors
/// Those of the filesystem; it stays as it was.
pub fn ext4_resize(mount_point: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the kernel reads one u64.
    checked(unsafe { ioctl::ext4_ioc_resize_fs(mount_point.as_raw_fd(), &raw const blocks) })
}

/// Random bytes without waiting for the kernel's pool to be seeded (getrandom(2),
/// GRND_INSECURE): for names that only have to differ, early in the boot.
///
/// # Errors
/// ENOSYS, EINVAL on kernels before 5.6.
pub fn random_early(bytes: &mut [u8]) -> io::Result<()> {
    const GRND_INSECURE: libc::c_uint = 4;
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), GRND_INSECURE) };
    match usize::try_from(got) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(io::Error::other("too few random bytes")),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Lets other threads go first: sets the calling thread's nice value, not the process's.
///
/// # Errors
/// EACCES never, as the value only rises.
pub fn go_last() -> io::Result<()> {
    // SAFETY: no pointers. On Linux 0 with PRIO_PROCESS is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Swaps to a device, before any other one.
///
/// # Errors
/// Those of swapon(2).
pub fn swap_on(device: &std::path::Path) -> io::Result<()> {
    /// From `include/linux/swap.h`: prefer it, by the highest priority.
    const FIRST: libc::c_int = 0x8000 | 0x7fff;
    let path = std::ffi::CString::new(device.as_os_str().as_encoded_bytes())?;
    // SAFETY: a string that ends with NUL, which the kernel only reads.
    let result = unsafe { libc::swapon(path.as_ptr(), FIRST) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

fn adjtimex(change: impl FnOnce(&mut libc::timex)) -> io::Result<()> {
    // SAFETY: timex is plain data, all-zero is valid (modes = 0 changes nothing).
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    change(&mut timex);
    // SAFETY: a valid pointer to the struct.
    match unsafe { libc::adjtimex(&raw mut timex) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Slews the clock by `microseconds`, at 500 ppm.
///
/// # Errors
/// EPERM without CAP_SYS_TIME.
pub fn slew_clock(microseconds: i64) -> io::Result<()> {
    adjtimex(|t| {
        t.modes = libc::ADJ_OFFSET_SINGLESHOT;
        t.offset = microseconds as libc::c_long;
    })
}

/// Tells the kernel that the clock follows a server, so that it writes the RTC every 11 minutes.
///
/// # Errors
/// EPERM without CAP_SYS_TIME.
pub fn mark_clock_synchronised() -> io::Result<()> {
    adjtimex(|t| {
        t.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
        t.status = libc::STA_PLL;
        t.maxerror = 500_000;
        t.esterror = 500_000;
    })
}

/// A socket for IPv4 packets (from the IP header on) of one interface: `AF_PACKET`,
/// `SOCK_DGRAM`, bound to the interface with this index.
///
/// # Errors
/// EPERM without CAP_NET_RAW, ENODEV when the interface has gone.
pub fn packet_socket(interface: u32) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_IP as u16).to_be();
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            i32::from(protocol),
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: a descriptor just made and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = link_address(interface, [0; 6]);
    // SAFETY: a valid sockaddr_ll of its size.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    Errno::result(result)?;
    Ok(socket)
}

/// Sends one IPv4 packet to a MAC address on the interface.
///
/// # Errors
/// ENETDOWN when the interface is down, and others of send(2).
pub fn packet_send(
    socket: BorrowedFd<'_>,
    interface: u32,
    to: [u8; 6],
    packet: &[u8],
) -> io::Result<()> {
    let address = link_address(interface, to);
    // SAFETY: buffer and address are valid for their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    Errno::result(sent)?;
    Ok(())
}

fn link_address(interface: u32, mac: [u8; 6]) -> libc::sockaddr_ll {
    // SAFETY: plain data, all-zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    address.sll_ifindex = interface as i32;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&mac);
    address
}

/// Borrows a descriptor of a type that only gives its number.
///
/// The caller keeps the owner alive while the borrow is in use: a poll(2) on a closed
/// descriptor reports POLLNVAL and does no harm to memory.
pub fn borrow<'a>(fd: std::os::fd::RawFd) -> BorrowedFd<'a> {
    // SAFETY: descriptors are not memory; see above.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Columns and rows of a terminal.
///
/// # Errors
/// ENOTTY for what is none. A serial line doesn't know: then both are 0, and it is EINVAL.
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    // SAFETY: plain data, all-zero is valid.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one struct winsize.
    checked(unsafe { ioctl::tiocgwinsz(terminal.as_raw_fd(), &raw mut size) })?;
    match (size.ws_col, size.ws_row) {
        (0, _) | (_, 0) => Err(Errno::EINVAL.into()),
        size => Ok(size),
    }
}

/// Has the kernel print its messages on the virtual terminal of this number, 0 for the one
/// that is shown (TIOCL_SETKMSGREDIRECT). `terminal` is any of them.
///
/// # Errors
/// ENOTTY for what is no virtual terminal, EPERM.
pub fn kernel_messages_to(terminal: BorrowedFd<'_>, number: u8) -> io::Result<()> {
    let argument = [11, number];
    // SAFETY: the kernel reads two bytes.
    checked(unsafe { ioctl::tioclinux(terminal.as_raw_fd(), &raw const argument) })
}

/// Gives the device mapper a command by its number, and its answer in the same buffer. What
/// both say is [`dm`](crate::dm)'s; `buffer[12..16]` must be its length.
///
/// # Errors
/// ENXIO for a device that isn't there, EBUSY for one that is, or is in use, EINVAL for a
/// table that its target refuses, and others of the command; EINVAL without asking for a
/// buffer whose length is not the one it names.
pub fn device_mapper(control: &File, command: u8, buffer: &mut [u8]) -> io::Result<()> {
    // The kernel reads and writes as many bytes as the buffer's own data_size says.
    let named = buffer.get(12..16).and_then(|field| field.try_into().ok());
    if named.map(u32::from_ne_bytes) != u32::try_from(buffer.len()).ok() {
        return Err(Errno::EINVAL.into());
    }
    // struct dm_ioctl has 312 bytes; more data may follow it.
    let request = nix::request_code_readwrite!(0xfd, command, 312);
    // SAFETY: the buffer is valid for the length that it names, which was compared.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), request as _, buffer.as_mut_ptr()) };
    checked(Errno::result(result))
}
