//! One binary: PID 1 of the initrd and of the root, and small tools by their names.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use slipway_init::phase::{Deadline, End};
use slipway_init::shutdown::{Kind, at_once};
use slipway_init::{applet, initrd, log, pid1, say};

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    match name.rsplit('/').next().unwrap_or_default() {
        "modprobe" => applet::modprobe(&arguments),
        "reboot" => applet::end(Kind::Reboot, &arguments),
        "poweroff" => applet::end(Kind::PowerOff, &arguments),
        "halt" => applet::end(Kind::Halt, &arguments),
        _ if std::process::id() == 1 => init(),
        _ => {
            say!("this is PID 1's program; its tools are modprobe, reboot, poweroff, halt");
            ExitCode::FAILURE
        }
    }
}

fn init() -> ! {
    // Nothing panics on purpose. If it happens after all, say where and start again rather
    // than leave a kernel panic.
    std::panic::set_hook(Box::new(|info| {
        say!("bug in init: {info}; rebooting");
        std::thread::sleep(Duration::from_secs(5));
        at_once(Kind::Reboot);
    }));
    let blocked = pid1::block_signals();
    let started = log::start();
    if let Err(failure) = blocked {
        say!("{failure}");
    }
    let deadline = Deadline::default();
    if let Err(error) = started {
        say!("no console thread: {error}");
    }
    // The kernel starts /init in an initramfs and /sbin/init on a root.
    let in_initrd = !Path::new("/usr/lib/slipway/services").exists();
    if !in_initrd {
        pid1::banner();
        let Err(failure) = pid1::main(deadline);
        say!("{failure}: rebooting");
        at_once(Kind::Reboot);
    }
    guard(&deadline);
    if let End::Reboot { phase } = initrd::main(&deadline) {
        say!("{phase} failed: rebooting in 30 s");
        std::thread::sleep(Duration::from_secs(30));
    }
    at_once(Kind::Reboot)
}

/// In the initrd there is no main loop: a thread watches over the phases' deadlines.
fn guard(deadline: &Deadline) {
    let deadline = deadline.clone();
    let thread = std::thread::Builder::new()
        .name("guard".into())
        .spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(500));
                if let Some(phase) = deadline.passed() {
                    say!("{phase} has hung past its deadline: rebooting");
                    at_once(Kind::Reboot);
                }
            }
        });
    if let Err(error) = thread {
        say!("no guard: {error}");
    }
}
