//! Server-side apply of manifests: paths by discovery, order by kind, nothing when nothing differs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use ureq::http::Method;

use super::{ApiError, Client};

/// Remembers on the object which manifest it was applied from.
const DIGEST_ANNOTATION: &str = "slipway.local/applied";
/// How long a new kind may take until the API serves it.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at the API's list of kinds, which can't be watched.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(100);

/// One entry of a discovery document (`metav1.APIResource`).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Resource {
    name: String,
    kind: String,
    namespaced: bool,
}

#[derive(Deserialize)]
struct ResourceList {
    resources: Vec<Resource>,
}

/// Whether an object was applied from a manifest, and is none that took its place.
#[must_use]
pub fn is_from_manifest(object: &Value) -> bool {
    !object["metadata"]["annotations"][DIGEST_ANNOTATION].is_null()
}

/// What applying an object did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It was made or changed.
    Written,
    /// It had been applied from the same manifest before, and was left alone.
    Unchanged,
}

/// Splits a YAML text into its documents, without the empty ones.
///
/// # Errors
/// [`ApiError::Object`] with the line.
pub fn parse_documents(yaml: &str) -> Result<Vec<Value>, ApiError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).map_err(|error| ApiError::Object {
            reason: error.to_string(),
        })?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

impl Client {
    /// Applies an object as `manager`, taking over fields that others own
    /// (`PATCH` with `application/apply-patch+yaml`, KEP-555).
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn apply(&self, object: &Value, manager: &str) -> Result<Value, ApiError> {
        let path = self.path_of(object)?;
        let path = format!("{path}?fieldManager={manager}&force=true");
        self.call(
            &Method::PATCH,
            &path,
            Some(("application/apply-patch+yaml", object)),
        )
    }

    /// Applies an object unless it was already applied from the same manifest. What a
    /// user changed since then stays: the manifest wins again when it changes itself.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn apply_if_changed(&self, object: &Value, manager: &str) -> Result<Applied, ApiError> {
        let digest = digest(object);
        let annotation = ["metadata", "annotations", DIGEST_ANNOTATION];
        if let Some(present) = self.find(&self.path_of(object)?)?
            && annotation
                .iter()
                .try_fold(&present, |value, key| value.get(key))
                == Some(&Value::from(digest.as_str()))
        {
            return Ok(Applied::Unchanged);
        }
        let mut object = object.clone();
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
        let annotations = metadata
            .map(|metadata| {
                metadata
                    .entry("annotations")
                    .or_insert_with(|| Value::Object(Default::default()))
            })
            .and_then(Value::as_object_mut);
        if let Some(annotations) = annotations {
            annotations.insert(DIGEST_ANNOTATION.to_owned(), Value::from(digest));
        }
        self.apply(&object, manager)?;
        Ok(Applied::Written)
    }

    /// Applies the documents of a YAML text that differ from what was applied before:
    /// namespaces and new kinds first, and new kinds are waited for. Returns how many were written.
    ///
    /// # Errors
    /// [`ApiError`] of the first object that failed.
    pub fn apply_yaml(&self, yaml: &str, manager: &str) -> Result<usize, ApiError> {
        let mut documents = parse_documents(yaml)?;
        documents.sort_by_key(|document| match document["kind"].as_str() {
            Some("Namespace") => 0,
            Some("CustomResourceDefinition") => 1,
            _ => 2,
        });
        let mut written = 0;
        for document in &documents {
            if self.apply_if_changed(document, manager)? == Applied::Written {
                written += 1;
                if document["kind"] == "CustomResourceDefinition" {
                    self.wait_served(document)?;
                }
            }
        }
        Ok(written)
    }

    /// Waits until objects of a new kind can be made. That it is established is not enough:
    /// the API's list of kinds is brought up to date some moments later.
    fn wait_served(&self, definition: &Value) -> Result<(), ApiError> {
        let end = Instant::now() + ESTABLISHED_WITHIN;
        self.wait(
            &self.path_of(definition)?,
            "the new kind to be established",
            ESTABLISHED_WITHIN,
            |object| object.is_some_and(|object| condition(object, "Established")),
        )?;
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
        let versions = spec["versions"].as_array().into_iter().flatten();
        for version in versions.filter(|version| version["served"] == true) {
            let root = format!("/apis/{group}/{}", text(&version["name"]));
            while let Err(error) = self.resource(&root, &kind) {
                if !matches!(error, ApiError::Object { .. }) {
                    return Err(error);
                }
                if Instant::now() >= end {
                    return Err(ApiError::Deadline {
                        what: "the new kind to be listed".to_owned(),
                        waited: ESTABLISHED_WITHIN,
                        last: error.to_string(),
                    });
                }
                std::thread::sleep(DISCOVERY_INTERVAL);
            }
        }
        Ok(())
    }

    /// The path of an object by its `apiVersion`, `kind`, name and namespace.
    ///
    /// # Errors
    /// [`ApiError::Object`] when one of these is missing or the API doesn't know the kind.
    pub fn path_of(&self, object: &Value) -> Result<String, ApiError> {
        let text = |value: &Value, what: &str| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| ApiError::Object {
                    reason: format!("the object has no {what}"),
                })
        };
        let api_version = text(&object["apiVersion"], "apiVersion")?;
        let kind = text(&object["kind"], "kind")?;
        let name = text(&object["metadata"]["name"], "metadata.name")?;
        let root = if api_version.contains('/') {
            "apis"
        } else {
            "api"
        };
        let root = format!("/{root}/{api_version}");
        let resource = self.resource(&root, &kind)?;
        Ok(if resource.namespaced {
            let namespace = object["metadata"]["namespace"]
                .as_str()
                .unwrap_or("default");
            format!("{root}/namespaces/{namespace}/{}/{name}", resource.name)
        } else {
            format!("{root}/{}/{name}", resource.name)
        })
    }

    fn resource(&self, root: &str, kind: &str) -> Result<Resource, ApiError> {
        let find = |resources: &[Resource]| {
            // Subresources (`pods/log`) share their parent's list.
            resources
                .iter()
                .find(|resource| resource.kind == kind && !resource.name.contains('/'))
                .cloned()
        };
        let known = lock(&self.resources).get(root).cloned();
        if let Some(found) = known.as_deref().and_then(|known| find(known)) {
            return Ok(found);
        }
        // Not known, or a kind that came later: ask (again).
        let unknown = || ApiError::Object {
            reason: format!("the API has no {kind} in {root}"),
        };
        let answer = self.find(root)?.ok_or_else(unknown)?;
        let list: ResourceList =
            serde_json::from_value(answer).map_err(|error| ApiError::Corrupt {
                call: format!("GET {root}"),
                reason: error.to_string(),
            })?;
        let found = find(&list.resources);
        lock(&self.resources).insert(root.to_owned(), Arc::new(list.resources));
        found.ok_or_else(unknown)
    }
}

/// A poisoned lock only means that another thread panicked; the map is whole either way.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether an object's status has a condition of this type with status `True`.
#[must_use]
pub(crate) fn condition(object: &Value, kind: &str) -> bool {
    object["status"]["conditions"]
        .as_array()
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition["type"] == kind && condition["status"] == "True")
        })
}

/// SHA-256 of the object's canonical JSON (serde_json sorts keys), first 32 hex digits.
fn digest(object: &Value) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, object.to_string().as_bytes());
    let mut text = slipway_images::hex(digest.as_ref());
    text.truncate(32);
    text
}
