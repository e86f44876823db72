//! The manifests of the system image, applied when they changed; what is in none any more is
//! removed ([`crate::inventory`]).

use std::path::{Path, PathBuf};

use slipway_access::api::{Client, parse_documents};
use slipway_images::info::ImageInfo;

use crate::error::{Context, Error};
use crate::inventory::{Entry, Inventory};
use crate::joining;
use crate::options::Config;

/// The field manager of everything applied.
pub const MANAGER: &str = "slipway";

/// What clusterd's own parts need: the API server may ask kubelets for logs and the like.
/// kubeadm puts its certificate into an administrators' group instead. And upstream's
/// binding that lets anybody ask for health and version, also without a name, is narrowed
/// to those who have one; it is marked so that the API server doesn't widen it again.
const OWN: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: slipway:apiserver-kubelet-client
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:kubelet-api-admin
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: User
  name: slipway:apiserver-kubelet-client
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: system:public-info-viewer
  annotations:
    rbac.authorization.kubernetes.io/autoupdate: "false"
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: system:public-info-viewer
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: system:authenticated
"#;

/// Applies what the cluster's own parts need, and the rights of agents.
pub fn apply_own(config: &Config, client: &Client) -> Result<usize, Error> {
    let own = format!("{OWN}---\n{}", joining::manifests(config)?);
    Ok(client.apply_yaml(&own, MANAGER)?)
}

/// Applies every manifest of the image, in the order of their names, and removes what an
/// earlier image had and this one hasn't. One that fails doesn't keep the others from being
/// applied, but nothing is removed then; the first error is returned. Without a directory of
/// manifests nothing is done at all.
pub fn apply(config: &Config, client: &Client) -> Result<usize, Error> {
    let Some(paths) = manifests(&config.paths.addons())? else {
        return Ok(0);
    };
    let mut written = 0;
    let mut first = None;
    let mut failed = |path: &Path, error| {
        crate::log::info!("add-on {}: {error}", path.display());
        first.get_or_insert(error);
    };
    let mut addons = Vec::new();
    for path in paths {
        match read(config, &path) {
            Ok((text, entries)) => addons.push((path, text, entries)),
            Err(error) => failed(&path, error),
        }
    }
    let all = addons.iter().flat_map(|(_, _, entries)| entries);
    let all: Vec<Entry> = all.cloned().collect();
    // An image that doesn't say when it was built is as old as can be.
    let built = ImageInfo::read(&config.paths.image_info()).map_or(0, |image| image.built);
    let mut inventory = Inventory::read(client)?;
    inventory.begin(client, &all, built)?;
    for (path, text, _) in &addons {
        match client.apply_yaml(text, MANAGER) {
            Ok(count) => written += count,
            Err(error) => failed(path, error.into()),
        }
    }
    if let Some(error) = first {
        return Err(error);
    }
    inventory.end(client, &all, built)?;
    Ok(written)
}

/// A manifest with the cluster's values, and the objects in it.
fn read(config: &Config, path: &Path) -> Result<(String, Vec<Entry>), Error> {
    let text = std::fs::read_to_string(path).context(|| format!("read {}", path.display()))?;
    let text = fill(config, &text);
    let entries = parse_documents(&text)?
        .iter()
        .filter_map(Entry::of)
        .collect();
    Ok((text, entries))
}

/// `None` without a directory.
fn manifests(directory: &Path) -> Result<Option<Vec<PathBuf>>, Error> {
    let action = || format!("list {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(action),
    };
    let mut manifests = Vec::new();
    for entry in entries {
        let path = entry.context(action)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            manifests.push(path);
        }
    }
    manifests.sort();
    Ok(Some(manifests))
}

/// Puts the cluster's values into a manifest.
fn fill(config: &Config, text: &str) -> String {
    let cluster = &config.seed.cluster;
    let dns = config
        .cluster_dns()
        .map(|address| address.to_string())
        .unwrap_or_default();
    text.replace("${CLUSTER_DNS}", &dns)
        .replace("${CLUSTER_DOMAIN}", &cluster.cluster_domain)
        .replace("${POD_CIDR}", &cluster.pod_cidr.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_filled_in_and_others_left() {
        let config = crate::component::tests::config(true);
        assert_eq!(
            fill(
                &config,
                "${CLUSTER_DNS} ${CLUSTER_DOMAIN} ${POD_CIDR} ${OTHER}"
            ),
            "10.43.0.10 cluster.local 10.42.0.0/16 ${OTHER}"
        );
    }

    #[test]
    fn the_own_manifest_parses() {
        assert_eq!(parse_documents(OWN).unwrap().len(), 2);
    }
}
