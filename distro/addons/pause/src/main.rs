//! Holds a pod's namespaces open until it is told to end, and reaps what is
//! orphaned where the pod's containers share one process namespace.
//!
//! There is no libc and no signal handler: the three signals that matter are
//! blocked and waited for in turn. A blocked signal is kept even for PID 1 of a
//! namespace, to which the kernel otherwise delivers nothing that it has no
//! handler for (signal(7), pid_namespaces(7)).
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;

/// `how` of rt_sigprocmask(2).
const SIG_BLOCK: usize = 0;
/// `options` of wait4(2).
const WNOHANG: usize = 1;
/// `pid` of wait4(2): any child.
const ANY: usize = usize::MAX;

/// The kernel's signal set: 64 bits on each of our architectures.
type SignalSet = u64;
const WAITED_FOR: SignalSet = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);

extern "C" fn pause() -> ! {
    let set: *const SignalSet = &WAITED_FOR;
    syscall(
        sys::RT_SIGPROCMASK,
        [SIG_BLOCK, set as usize, 0, size_of::<SignalSet>()],
    );
    loop {
        let signal = syscall(
            sys::RT_SIGTIMEDWAIT,
            [set as usize, 0, 0, size_of::<SignalSet>()],
        );
        match usize::try_from(signal) {
            Ok(SIGINT | SIGTERM) => exit(),
            // One SIGCHLD can stand for many children.
            Ok(SIGCHLD) => while syscall(sys::WAIT4, [ANY, 0, WNOHANG, 0]) > 0 {},
            // EINTR, after a stop and continue.
            _ => {}
        }
    }
}

fn exit() -> ! {
    loop {
        syscall(sys::EXIT_GROUP, [0; 4]);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit()
}

#[cfg(target_arch = "x86_64")]
mod sys {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod sys {
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
}

#[cfg(target_arch = "arm")]
mod sys {
    pub const WAIT4: usize = 114;
    pub const RT_SIGPROCMASK: usize = 175;
    pub const RT_SIGTIMEDWAIT: usize = 177;
    pub const EXIT_GROUP: usize = 248;
}

// The kernel starts a program on a stack that no function of any ABI expects:
// no return address, the arguments' count on top.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {pause}",
    pause = sym pause
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, #0",
    "mov x30, #0",
    "b {pause}",
    pause = sym pause
);
#[cfg(target_arch = "arm")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov r11, #0",
    "mov lr, #0",
    "bic sp, sp, #7",
    "b {pause}",
    pause = sym pause
);

/// A system call; what the kernel returns, negative for an error.
#[cfg(target_arch = "x86_64")]
fn syscall(number: usize, arguments: [usize; 4]) -> isize {
    let result;
    let [a, b, c, d] = arguments;
    // SAFETY: every caller passes pointers to constants or null.
    unsafe {
        asm!("syscall", inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// A system call; what the kernel returns, negative for an error.
#[cfg(target_arch = "aarch64")]
fn syscall(number: usize, arguments: [usize; 4]) -> isize {
    let result;
    let [a, b, c, d] = arguments;
    // SAFETY: every caller passes pointers to constants or null.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, options(nostack));
    }
    result
}

/// A system call; what the kernel returns, negative for an error.
#[cfg(target_arch = "arm")]
fn syscall(number: usize, arguments: [usize; 4]) -> isize {
    let result;
    let [a, b, c, d] = arguments;
    // SAFETY: every caller passes pointers to constants or null. r7 holds the
    // number, and may be the frame pointer, which asm! may not name: saved aside.
    unsafe {
        asm!("mov {saved}, r7", "mov r7, {number}", "svc #0", "mov r7, {saved}",
            saved = out(reg) _, number = in(reg) number, inlateout("r0") a => result,
            in("r1") b, in("r2") c, in("r3") d, options(nostack));
    }
    result
}
