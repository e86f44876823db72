//! Which source counts, and reading the ones that are files.

use super::*;

#[test]
fn the_files_that_are_there_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let read = || read_files("x", |name| File::open(dir.path().join(name)));
    fs::write(dir.path().join("meta-data"), "instance-id: a\n").unwrap();
    assert_eq!(read().unwrap(), None, "no user-data, no seed");
    fs::write(dir.path().join("user-data"), "#cloud-config\n").unwrap();
    let Files {
        documents: files,
        passphrase,
    } = read().unwrap().unwrap();
    assert_eq!(passphrase, None);
    assert_eq!(files.user_data.reveal(), "#cloud-config\n");
    assert_eq!(files.meta_data, Some(Secret::new("instance-id: a\n")));
    assert_eq!(files.network_config, None);
    fs::write(dir.path().join("passphrase"), "open\n").unwrap();
    assert_eq!(
        read().unwrap().unwrap().passphrase,
        Some(Secret::new("open\n"))
    );
    fs::write(dir.path().join("network-config"), [0xff]).unwrap();
    let failure = read().unwrap_err();
    assert!(failure.0.contains("network-config of x"), "{failure}");
}

#[test]
fn an_applied_seed_takes_the_place_of_the_one_it_was_applied_over() {
    use slipway_images::seed::{APPLIED_FILE, NOTHING};
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("run/slipway")).unwrap();
    fs::create_dir_all(at(APPLIED_FILE).parent().unwrap()).unwrap();
    let documents = |text: &str| Documents {
        user_data: Secret::new(text),
        network_config: None,
        meta_data: None,
    };
    let another = documents("another").digest();
    let store = |over: &str, text: &str| {
        let applied = Applied {
            over: over.to_owned(),
            files: documents(text),
        };
        fs::write(at(APPLIED_FILE), serde_json::to_vec(&applied).unwrap()).unwrap();
    };
    let seed = |path: &Path| fs::read_to_string(path).ok();
    let file = at("run/slipway/seed.json");
    assert_eq!(applied(root.path(), Data::Safe), Ok(None));
    // Over nothing, and nothing is there.
    store(NOTHING, "#cloud-config\nhostname: b\n");
    assert_eq!(
        applied(root.path(), Data::Safe)
            .unwrap()
            .unwrap()
            .hostname
            .as_deref(),
        Some("b")
    );
    assert!(seed(&file).unwrap().contains("\"b\""));
    // Somebody puts another seed into the machine: that one is meant.
    fs::write(at(OUTSIDE_FILE), &another).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(applied(root.path(), Data::Safe), Ok(None));
    assert_eq!(seed(&file), None);
    // One that this image doesn't understand is said, and changes nothing.
    store(&another, "#cloud-config\nhostname: [b]\n");
    assert!(
        applied(root.path(), Data::Safe)
            .unwrap_err()
            .0
            .contains("user-data:2")
    );
    assert_eq!(seed(&file), None);
}

#[test]
fn too_large_and_not_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let failure = |path: &Path| read_text(File::open(path).unwrap(), "x").unwrap_err().0;
    fs::write(&path, vec![b'a'; (DOCUMENT_LIMIT + 1) as usize]).unwrap();
    assert!(failure(&path).contains("larger"));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(failure(&path).contains("UTF-8"));
}

fn files(text: &str) -> Files {
    Files {
        documents: Documents {
            user_data: Secret::new(text),
            network_config: None,
            meta_data: None,
        },
        passphrase: None,
    }
}

fn words(line: &str, serial: &str) -> Words {
    Words::read(line, serial, Path::new("/nonexistent")).unwrap()
}

const URL: &str = "ds=nocloud;s=http://h/";

fn not_looked_at() -> Result<Found, Failure> {
    panic!("a source behind one that is there was looked at")
}

#[test]
fn the_command_line_comes_before_fw_cfg() {
    let words = words(
        "quiet ds=nocloud;s=http://line/ ro",
        "ds=nocloud;s=http://serial/",
    );
    let source = choose(&words, not_looked_at, not_looked_at).unwrap();
    let Source::Url(url, by) = source else {
        panic!("{source:?}")
    };
    assert_eq!(
        (url.reveal(), by),
        ("http://line/", "the kernel's command line")
    );
}

#[test]
fn fw_cfg_comes_before_the_serial_number() {
    let dir = tempfile::tempdir().unwrap();
    let firmware = || firmware_below(dir.path());
    let words = words("quiet", URL);
    let source = choose(&words, firmware, not_looked_at).unwrap();
    assert!(matches!(source, Source::Url(..)), "fw_cfg is empty");
    // As the kernel shows what QEMU was given.
    fs::create_dir(dir.path().join("user-data")).unwrap();
    fs::write(dir.path().join("user-data/raw"), "#cloud-config\n").unwrap();
    let source = choose(&words, firmware, not_looked_at).unwrap();
    let expected = Source::Here(files("#cloud-config\n"), "fw_cfg".into());
    assert_eq!(source, expected);
}

#[test]
fn the_serial_number_comes_before_volumes() {
    let source = choose(&words("quiet", URL), || Ok(None), not_looked_at).unwrap();
    let Source::Url(url, by) = source else {
        panic!("{source:?}")
    };
    assert_eq!(
        (url.reveal(), by),
        ("http://h/", "the machine's serial number")
    );
    // One that gives names alone is no source.
    let names = words("quiet", "ds=nocloud;h=a");
    let volume = || Ok(Some((files("v"), "/dev/vdb".to_owned())));
    let source = choose(&names, || Ok(None), volume).unwrap();
    assert_eq!(source, Source::Here(files("v"), "/dev/vdb".into()));
    assert_eq!(names.names.hostname.as_deref(), Some("a"));
}

#[test]
fn a_cidata_volume_comes_before_the_boot_partition() {
    let cidata = || Some(("/dev/vdb".into(), volume::Kind::Iso));
    let boot = Some(Path::new("/dev/vda1"));
    let both = first_volume(cidata(), boot, |device, _| {
        assert_ne!(device, Path::new("/dev/vda1"), "looked at");
        Ok(Some(files("cidata")))
    });
    assert_eq!(both, Ok(Some((files("cidata"), "/dev/vdb".into()))));
    // One without user-data has no seed.
    let empty = first_volume(cidata(), boot, |device, _| {
        Ok((device == Path::new("/dev/vda1")).then(|| files("boot")))
    });
    let expected = (files("boot"), "the boot partition".to_owned());
    assert_eq!(empty, Ok(Some(expected)));
    assert_eq!(first_volume(None, None, |_, _| Ok(None)), Ok(None));
}

#[test]
fn a_broken_source_is_no_reason_to_look_further() {
    let broken = || Err(Failure("broken".into()));
    for serial in ["", URL] {
        let failure = choose(&words("", serial), broken, not_looked_at).unwrap_err();
        assert_eq!(failure.0, "broken");
    }
    let failure = choose(&words("", ""), || Ok(None), broken).unwrap_err();
    assert_eq!(failure.0, "broken");
    let cidata = Some(("/dev/vdb".into(), volume::Kind::Fat));
    let boot = Some(Path::new("/dev/vda1"));
    let failure = first_volume(cidata, boot, |_, _| Err(Failure("broken".into())));
    assert_eq!(failure.unwrap_err().0, "broken");
    let nowhere = Path::new("/nonexistent");
    for (line, serial, named) in [
        ("ds=ec2", URL, "command line"),
        ("quiet", "ds=nocloud;s=ftp://h/", "serial number"),
        ("ds=nocloud;h=a", "ds=nocloud;s=ftp://h/", "serial number"),
    ] {
        let failure = Words::read(line, serial, nowhere).unwrap_err();
        assert!(failure.0.contains(named), "{failure}");
    }
    assert!(Words::read(URL, "ds=ec2", nowhere).is_ok());
}

#[test]
fn names_are_the_command_lines_then_the_serial_numbers() {
    let words = words("ds=nocloud;h=line", "ds=nocloud;s=http://h/;h=serial;i=id");
    assert_eq!(words.names.hostname.as_deref(), Some("line"));
    assert_eq!(words.names.instance_id.as_deref(), Some("id"));
    assert!(words.line.is_none() && words.serial.is_some());
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("run/slipway")).unwrap();
    let found = files("#cloud-config\nhostname: seed\n").documents;
    let seed = accept(root.path(), &found, "x", &words.names, Data::NotYet).unwrap();
    assert_eq!(seed.hostname.as_deref(), Some("line"));
    assert_eq!(seed.instance_id.as_deref(), Some("id"));
    assert_eq!(outside(root.path()), Ok(found.digest()));
}

/// Who asks for encryption must not find out later that data lies there in the clear.
#[test]
fn encryption_is_refused_where_data_is_in_the_clear() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("run/slipway")).unwrap();
    let wish = files("#cloud-config\nslipway: {data: {encrypt: passphrase-file}}\n").documents;
    let accepted = |data| accept(root.path(), &wish, "x", &Names::default(), data);
    assert!(accepted(Data::NotYet).is_ok() && accepted(Data::Safe).is_ok());
    fs::remove_file(root.path().join("run/slipway/seed.json")).unwrap();
    let failure = accepted(Data::InTheClear).unwrap_err();
    assert!(
        failure
            .0
            .contains("slipway.data.encrypt: the data partition"),
        "{failure}"
    );
    assert!(!root.path().join("run/slipway/seed.json").exists());
}
