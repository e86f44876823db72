//! `slipway seed check`, `schema` and `diff`: exit codes, places, and where what is printed.

use std::fs;

use serde_json::Value;

use super::{new_in, seed, stderr, stdout};

#[test]
fn findings_have_file_line_and_column() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().to_str().unwrap();
    fs::write(
        tmp.path().join("user-data"),
        "#cloud-config\nhostnam: a\nslipway:\n  cluster:\n    role: boss\n    token: [s3cr3t]\n",
    )
    .unwrap();
    fs::write(
        tmp.path().join("network-config"),
        "version: 2\nethernets: {eth0: {mtu: 1}}\n",
    )
    .unwrap();
    let out = seed(&["check", dir]);
    assert_eq!(out.status.code(), Some(3));
    let said = stderr(&out);
    for line in [
        format!("{dir}/user-data:2:1: warning: hostnam: unknown key"),
        format!(
            "{dir}/user-data:5:11: error: slipway.cluster.role: \"boss\" is none of server, agent"
        ),
        format!("{dir}/network-config:2:25: error: ethernets.eth0.mtu: 1 is no whole number"),
        "did you mean `hostname`?".into(),
        // What the key means.
        "    This machine's part: a server runs the control plane, too".into(),
    ] {
        assert!(said.contains(&line), "{line}\n{said}");
    }
    assert!(!said.contains("s3cr3t"));

    let out = seed(&["check", dir, "--json"]);
    assert_eq!(out.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let first = &report["seeds"][0]["findings"][0];
    assert_eq!(report["seeds"][0]["good"], false);
    assert_eq!(first["severity"], "warning");
    assert_eq!(
        (&first["line"], &first["column"], &first["key"]),
        (&2.into(), &1.into(), &"hostnam".into())
    );
    assert!(first["file"].as_str().unwrap().ends_with("user-data"));
    // stderr has events only.
    assert!(
        stderr(&out)
            .lines()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
}

#[test]
fn warnings_alone_are_no_failure_and_single_files_are_told_by_their_name() {
    let tmp = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &[u8]| {
        let path = tmp.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let odd = file("my.yaml", b"#cloud-config\npackages: [vim]\n");
    let out = seed(&["check", &odd]);
    assert_eq!(out.status.code(), Some(0));
    assert!(stderr(&out).contains("my.yaml:2:1: warning: packages: has no effect here, because"));
    assert!(stdout(&out).contains("good, 0 errors, 1 warnings"));

    // A directory is a whole seed: what is to open its data belongs to it.
    let wish = b"#cloud-config\nslipway: {data: {encrypt: passphrase-file}}\n";
    file("user-data", wish);
    let whole = tmp.path().to_str().unwrap();
    let out = seed(&["check", whole]);
    assert_eq!(out.status.code(), Some(0));
    assert!(stderr(&out).contains("warning: slipway.data.encrypt: there is no file `passphrase`"));
    file("passphrase", b"open\n");
    assert!(stdout(&seed(&["check", whole])).contains("good, 0 errors, 0 warnings"));

    let network = file("lab-network-config.yaml", b"version: 1\n");
    let out = seed(&["check", &network]);
    assert_eq!(out.status.code(), Some(3));
    assert!(
        stderr(&out).contains("version 1 is not understood"),
        "{}",
        stderr(&out)
    );

    let latin = file("latin", b"#cloud-config\nhostname: caf\xe9\n");
    let out = seed(&["check", &latin]);
    assert_eq!(out.status.code(), Some(3));
    assert!(
        stderr(&out).contains("latin:2:14: error: not UTF-8"),
        "{}",
        stderr(&out)
    );

    let large = file(
        "large",
        &[b"#cloud-config\n#".as_slice(), &vec![b'x'; 2 << 20]].concat(),
    );
    let out = seed(&["check", &large]);
    assert_eq!(out.status.code(), Some(3));
    assert!(stderr(&out).contains("longer than"), "{}", stderr(&out));

    let empty = tempfile::tempdir().unwrap();
    let out = seed(&["check", empty.path().to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(3));
    assert!(stderr(&out).contains("has no file user-data"));
    assert_eq!(seed(&["check", "/nonexistent"]).status.code(), Some(7));
}

#[test]
fn the_schema_is_printed() {
    for document in ["user-data", "network-config", "meta-data"] {
        let out = seed(&["schema", document]);
        let schema: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert!(schema["title"].as_str().unwrap().starts_with(document));
    }
    assert_eq!(
        stdout(&seed(&["schema"])),
        stdout(&seed(&["schema", "user-data"]))
    );
    assert_eq!(seed(&["schema", "other"]).status.code(), Some(2));
}

#[test]
fn a_diff_says_what_it_takes() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("home");
    new_in(&dir, &["--endpoint", "a.lan"]);
    let old = dir.join("home-server-1");
    let new = tmp.path().join("new");
    let text = fs::read_to_string(old.join("user-data")).unwrap();
    fs::write(
        &new,
        format!("{text}ntp:\n  servers: [192.0.2.9]\nfqdn: a.example\n"),
    )
    .unwrap();
    let (old_path, new_path) = (old.join("user-data"), new.to_str().unwrap());
    let old_path = old_path.to_str().unwrap();
    let out = seed(&["diff", old_path, new_path]);
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(
        stdout(&out),
        "reboot  fqdn: added\nlive    ntp.servers: [] -> [\"192.0.2.9\"]\n\
         a node has to be rebooted\n"
    );

    // Another token, and other addresses of pods: nothing secret is shown.
    let token = text
        .lines()
        .find(|line| line.trim().starts_with("token:"))
        .unwrap();
    let secret = token
        .rsplit('.')
        .next()
        .unwrap()
        .trim_matches(['"', '\''])
        .to_owned();
    fs::write(
        &new,
        text.replace(&secret, "another").replace(
            "\n  cluster:\n",
            "\n  cluster:\n    pod-cidr: 10.9.0.0/16\n",
        ),
    )
    .unwrap();
    let out = seed(&["diff", old_path, new_path, "--json"]);
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["effect"], "reset", "{report}");
    assert!(!stdout(&out).contains(&secret) && !stdout(&out).contains("another"));
    assert!(stdout(&seed(&["diff", old_path, old_path])).contains("no difference"));

    fs::write(&new, "hostname: x\n").unwrap();
    let out = seed(&["diff", old_path, new_path]);
    assert_eq!(out.status.code(), Some(3));
    assert!(stderr(&out).contains("the first line must be #cloud-config"));
}
