//! Which objects came from the image's add-ons, kept in the cluster, so that those of an
//! add-on that a newer image no longer has are removed.
//!
//! | ConfigMap `kube-system/slipway-addons` | |
//! |---|---|
//! | `data.objects` | JSON list of [`Entry`]: all that was applied and not removed since |
//! | `data.built` | when the image was built that wrote it, in seconds since 1970 |
//!
//! It is written before anything is applied and after everything is removed, so that a cut
//! between leaves no object that nobody knows of. An object is removed only if it still
//! bears the mark of having been applied from a manifest: one that a user made in its place
//! doesn't. And an older image than the last removes nothing: in a cluster that is being
//! upgraded it would take away what the newer servers have brought.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use slipway_access::api::{ApiError, Client, is_from_manifest};

use crate::error::Error;
use crate::log::info;

const PATH: &str = "/api/v1/namespaces/kube-system/configmaps/slipway-addons";
/// Kinds that hold what others made, which would go with them.
const KEPT: [&str; 4] = [
    "Namespace",
    "CustomResourceDefinition",
    "PersistentVolume",
    "PersistentVolumeClaim",
];

/// What an object is known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    api_version: String,
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
}

impl Entry {
    /// That of an object; `None` if something is missing.
    pub fn of(object: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let metadata = &object["metadata"];
        Some(Self {
            api_version: text(&object["apiVersion"])?,
            kind: text(&object["kind"])?,
            namespace: text(&metadata["namespace"]).unwrap_or_default(),
            name: text(&metadata["name"])?,
        })
    }

    fn group(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or("", |(group, _)| group)
    }

    /// Whether they are one object: the API has the same one in all versions of its group.
    fn is(&self, other: &Self) -> bool {
        (self.group(), &self.kind, &self.namespace, &self.name)
            == (other.group(), &other.kind, &other.namespace, &other.name)
    }

    fn object(&self) -> Value {
        let mut metadata = json!({"name": self.name});
        if !self.namespace.is_empty() {
            metadata["namespace"] = json!(self.namespace);
        }
        json!({"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata})
    }
}

/// What was written last.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    objects: Vec<Entry>,
    built: i64,
}

impl Inventory {
    /// Reads it; an empty one where there is none.
    ///
    /// # Errors
    /// The API's; one that makes no sense is said and taken for empty: then nothing is removed.
    pub fn read(client: &Client) -> Result<Self, Error> {
        let Some(found) = client.find(PATH)? else {
            return Ok(Self::default());
        };
        Ok(Self::of(&found["data"]).unwrap_or_else(|| {
            info!("add-ons: the list of what was applied is damaged; nothing is removed");
            Self::default()
        }))
    }

    fn of(data: &Value) -> Option<Self> {
        Some(Self {
            objects: serde_json::from_str(data["objects"].as_str()?).ok()?,
            built: data["built"].as_str()?.parse().ok()?,
        })
    }

    /// Adds what is about to be applied by an image of this age.
    ///
    /// # Errors
    /// The API's.
    pub fn begin(&mut self, client: &Client, now: &[Entry], built: i64) -> Result<(), Error> {
        let mut objects: Vec<Entry> = now.to_vec();
        let others = self.objects.iter();
        objects.extend(
            others
                .filter(|old| !now.iter().any(|new| new.is(old)))
                .cloned(),
        );
        self.replace(client, objects, self.built.max(built))
    }

    /// Removes what is no longer applied, if this image is not older than the last. What can't
    /// be removed is tried again the next time.
    ///
    /// # Errors
    /// The first failure.
    pub fn end(&mut self, client: &Client, now: &[Entry], built: i64) -> Result<(), Error> {
        if built < self.built {
            return Ok(());
        }
        let is_there = |old: &Entry| now.iter().any(|new| new.is(old));
        let gone = self.objects.iter().filter(|old| !is_there(old));
        let gone: Vec<Entry> = gone.cloned().collect();
        let (mut left, mut first) = (now.to_vec(), None);
        for entry in gone {
            if let Err(error) = remove(client, &entry) {
                info!("add-ons: removing {} {}: {error}", entry.kind, entry.name);
                left.push(entry);
                first.get_or_insert(error);
            }
        }
        self.replace(client, left, self.built)?;
        first.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Writes it, if that is a change.
    fn replace(
        &mut self,
        client: &Client,
        mut objects: Vec<Entry>,
        built: i64,
    ) -> Result<(), Error> {
        objects.sort();
        let new = Self { objects, built };
        if *self == new {
            return Ok(());
        }
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "slipway-addons", "namespace": "kube-system"},
            "data": {
                "objects": json!(new.objects).to_string(),
                "built": new.built.to_string(),
            },
        });
        client.apply(&object, crate::addons::MANAGER)?;
        *self = new;
        Ok(())
    }
}

/// Removes an object, if it is there and ours, with what its controllers made of it.
fn remove(client: &Client, entry: &Entry) -> Result<(), ApiError> {
    if KEPT.contains(&entry.kind.as_str()) {
        info!(
            "add-ons: {} {} is of no add-on any more; it is kept, since others' objects would go with it",
            entry.kind, entry.name
        );
        return Ok(());
    }
    let path = match client.path_of(&entry.object()) {
        Ok(path) => path,
        // The kind is gone, and its objects with it.
        Err(ApiError::Object { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(found) = client.find(&path)? else {
        return Ok(());
    };
    if !is_from_manifest(&found) {
        info!("add-ons: {path} is not from an add-on any more; it is kept");
        return Ok(());
    }
    info!("add-ons: {path} is of no add-on any more; removed");
    // Jobs' pods would be left otherwise.
    client
        .delete(&format!("{path}?propagationPolicy=Background"))
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(api_version: &str, kind: &str, namespace: &str, name: &str) -> Entry {
        let object = json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
        });
        Entry::of(&object).unwrap()
    }

    #[test]
    fn an_object_is_the_same_in_all_versions_of_its_group() {
        let old = entry("batch/v1beta1", "CronJob", "a", "x");
        assert!(old.is(&entry("batch/v1", "CronJob", "a", "x")));
        assert!(!old.is(&entry("other/v1", "CronJob", "a", "x")));
        assert!(!old.is(&entry("batch/v1", "CronJob", "b", "x")));
        assert!(!old.is(&entry("batch/v1", "CronJob", "a", "y")));
        assert_eq!(Entry::of(&json!({"kind": "X", "metadata": {}})), None);
    }

    #[test]
    fn what_is_stored_is_read_again_and_damage_is_nothing() {
        let objects = vec![entry("v1", "ConfigMap", "a", "x")];
        let text = json!(objects).to_string();
        let read = Inventory::of(&json!({"objects": text, "built": "7"}));
        assert_eq!(read, Some(Inventory { objects, built: 7 }));
        for damaged in [
            json!({}),
            json!({"objects": "[", "built": "7"}),
            json!({"objects": "[]", "built": "soon"}),
        ] {
            assert_eq!(Inventory::of(&damaged), None);
        }
    }
}
