//! A user's health script can veto. Alone in its process: the reaper takes every child.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use slipway_init::gate::ask;
use slipway_init::reaper::Reaper;

#[test]
fn a_script_can_veto() {
    let reaper = Reaper::default();
    let reaping = reaper.clone();
    std::thread::spawn(move || {
        loop {
            reaping.reap();
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("check");
    let script = |text: &str| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        ask(path.to_str(), &reaper)
    };
    assert!(ask(None, &reaper).is_ok());
    assert!(script("#!/bin/sh\nexit 0\n").is_ok());
    let veto = script("#!/bin/sh\necho no database\nexit 3\n").unwrap_err();
    assert!(veto.0.ends_with("exit status: 3: no database"), "{veto}");
    assert!(ask(Some("/nonexistent"), &reaper).is_err());
}
