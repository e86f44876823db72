//! Container images of the system image into containerd, each once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::component::{Name, component};
use crate::error::{Context, Error};
use crate::options::Config;
use crate::paths;

/// Imports every archive that isn't marked as imported. The file's name holds the content's
/// digest, so a name stands for a content. The marks are in containerd's directory: who
/// removes that has the images imported again.
pub fn import(config: &Config) -> Result<usize, Error> {
    let archives = archives(&config.paths.images())?;
    let marks = config.paths.imported();
    let mut imported = 0;
    for archive in archives {
        let Some(name) = archive.file_name() else {
            continue;
        };
        let mark = marks.join(name);
        if mark.exists() {
            continue;
        }
        import_one(config, &archive)?;
        paths::make(&marks, 0o700)?;
        slipway_access::durable::write(&mark, b"", 0o600)
            .context(|| format!("write {}", mark.display()))?;
        imported += 1;
    }
    Ok(imported)
}

fn archives(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let action = || format!("list {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(action),
    };
    let mut archives = Vec::new();
    for entry in entries {
        let path = entry.context(action)?.path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            archives.push(path);
        }
    }
    // The smallest first: pause, without which no pod starts.
    archives.sort_by_key(|path| {
        (
            path.metadata().map_or(u64::MAX, |meta| meta.len()),
            path.clone(),
        )
    });
    Ok(archives)
}

fn import_one(config: &Config, archive: &Path) -> Result<(), Error> {
    let program = config
        .bin
        .as_ref()
        .map_or_else(|| PathBuf::from("ctr"), |bin| bin.join("ctr"));
    let action = || format!("import {}", archive.display());
    let child = Command::new(program)
        .arg("--address")
        .arg(&config.tuning.containerd)
        .args(["--namespace", "k8s.io", "images", "import"])
        // Never collected as unused by the kubelet: it couldn't be pulled again.
        .args(["--label", "io.cri-containerd.pinned=pinned"])
        .arg(archive)
        .env_clear()
        .envs(component(config, Name::Kine).environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(action)?;
    // The API server makes its first objects at the same time, and is more urgent.
    let pid = rustix::process::Pid::from_child(&child);
    if let Err(error) = rustix::process::setpriority_process(Some(pid), 10) {
        crate::log::info!("can't lower the priority of an import: {error}");
    }
    let output = child.wait_with_output().context(action)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text
        .trim()
        .lines()
        .last()
        .unwrap_or("no message")
        .to_owned();
    Err(std::io::Error::other(last)).context(action)
}
