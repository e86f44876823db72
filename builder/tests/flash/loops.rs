//! A real block device, where this machine lets us have one.

use super::*;

/// A loop device over a file, detached at the end.
struct Loop(String);

impl Loop {
    fn attach(file: &Path) -> Option<Self> {
        let out = Command::new("losetup")
            .args(["--find", "--show", str(file)])
            .output()
            .ok()?;
        out.status
            .success()
            .then(|| Self(String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        Command::new("losetup")
            .args(["--detach", &self.0])
            .status()
            .unwrap();
    }
}

#[test]
fn a_loop_device_is_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let backing = dir.path().join("disk");
    // Old bytes everywhere, and what an earlier node left as its data.
    fs::write(&backing, vec![0x55; 80 << 20]).unwrap();
    let file = File::options().write(true).open(&backing).unwrap();
    file.set_len(3 << 30).unwrap();
    let data = (1 + 40 + 32 + 32) << 20;
    file.write_all_at(b"left by an earlier node", data).unwrap();
    let Some(device) = Loop::attach(&backing) else {
        println!("skipped: no loop device can be had here");
        return;
    };
    let (code, said) = refused(&["flash", str(&image), &device.0]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("--yes"), "{said}");

    let seed = seed_dir(dir.path());
    let out = slipway(&[
        "flash",
        str(&image),
        &device.0,
        "--yes",
        "--seed",
        str(&seed),
    ]);
    assert!(out.status.success(), "{}", text(&out));
    run("sync", &[]);
    assert_clean(&backing);
    let found = run(
        "mtype",
        &["-i", str(&cut_out(&backing, ESP)), "::/user-data"],
    );
    assert_eq!(found, USER_DATA);
    let mut bytes = [1; 23];
    File::open(&backing)
        .unwrap()
        .read_exact_at(&mut bytes, data)
        .unwrap();
    assert_eq!(bytes, [0; 23], "an earlier node's data would be taken over");

    let small = dir.path().join("small");
    fs::write(&small, vec![0; 50 << 20]).unwrap();
    if let Some(small) = Loop::attach(&small) {
        let (code, said) = refused(&["flash", str(&image), &small.0, &small.0, "--yes"]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("too small"), "{said}");
    }
}
