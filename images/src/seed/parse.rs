//! From the YAML text to a checked [`Seed`]: raw types with places, then the checks.

use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, Spanned};

use super::{
    CaPair, CaSeed, Cidr, Cluster, NodeApi, Parsed, Role, San, Secret, Seed, SeedError, Warning,
};

/// cloud-init's mark of this format; the first line, exactly.
const HEADER: &str = "#cloud-config";
/// Largest text taken, in bytes. PEMs and keys are the bulk of a seed.
const TEXT_LIMIT: usize = 1 << 20;

/// Every key of the format, for "did you mean".
const KEYS: [&str; 21] = [
    "hostname",
    "ssh_authorized_keys",
    "slipway",
    "cluster",
    "console",
    "name",
    "role",
    "extra-sans",
    "token",
    "pod-cidr",
    "service-cidr",
    "cluster-domain",
    "ca",
    "etcd",
    "front-proxy",
    "certificate",
    "key",
    "network",
    "node-api",
    "update",
    "server",
];

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawSeed {
    hostname: Option<Spanned<String>>,
    ssh_authorized_keys: Vec<Spanned<String>>,
    slipway: Option<RawSlipway>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct RawSlipway {
    cluster: Option<RawCluster>,
    node_api: Option<RawNodeApi>,
}

#[derive(Deserialize)]
struct RawNodeApi {
    ca: Spanned<String>,
    certificate: Spanned<String>,
    key: Spanned<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct RawCluster {
    name: Option<Spanned<String>>,
    role: Option<Spanned<String>>,
    extra_sans: Vec<Spanned<String>>,
    token: Option<Spanned<String>>,
    pod_cidr: Option<Spanned<String>>,
    service_cidr: Option<Spanned<String>>,
    cluster_domain: Option<Spanned<String>>,
    ca: Option<RawCas>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct RawCas {
    cluster: Option<RawPair>,
    etcd: Option<RawPair>,
    front_proxy: Option<RawPair>,
}

#[derive(Deserialize)]
struct RawPair {
    certificate: Spanned<String>,
    key: Spanned<String>,
}

pub(super) fn parse(text: &str) -> Result<Parsed, SeedError> {
    if text.len() > TEXT_LIMIT {
        return Err(invalid(0, format!("longer than {TEXT_LIMIT} bytes")));
    }
    if text.lines().next().map(str::trim_end) != Some(HEADER) {
        return Err(invalid(1, format!("the first line must be {HEADER}")));
    }
    let mut ignored: Vec<Vec<String>> = Vec::new();
    // A text with nothing but the header is an empty mapping.
    let raw = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
        serde_ignored::deserialize::<_, _, Option<RawSeed>>(yaml, |path| {
            let path = components(&path);
            // `Spanned` reads its places from a mapping of its own, whose mark nobody takes.
            if !path
                .last()
                .is_some_and(|key| key.starts_with("__serde_saphyr"))
            {
                ignored.push(path);
            }
        })
    })
    .map_err(yaml_error)?
    .unwrap_or_default();
    let warnings = if ignored.is_empty() {
        Vec::new()
    } else {
        warnings(text, &ignored)?
    };
    Ok(Parsed {
        seed: check(raw)?,
        warnings,
    })
}

/// No snippets: they would show the text around an error, keys and tokens with it.
fn options() -> Options {
    let mut options = Options::default();
    options.with_snippet = false;
    options
}

fn yaml_error(error: serde_saphyr::Error) -> SeedError {
    let line = error.location().map_or(0, |location| location.line());
    let mut message = error.without_snippet().to_string();
    // The place is told once, in our own words.
    if let Some(at) = message.find(" at line ") {
        message.truncate(at);
    }
    invalid(line, message)
}

fn invalid(line: u64, message: impl Into<String>) -> SeedError {
    SeedError::Invalid {
        line,
        message: message.into(),
    }
}

fn at<T>(value: &Spanned<T>, message: impl Into<String>) -> SeedError {
    invalid(value.referenced.line(), message)
}

fn check(raw: RawSeed) -> Result<Seed, SeedError> {
    let mut keys = Vec::new();
    for key in raw.ssh_authorized_keys {
        // `type base64 [comment]`; sshd's options before the type are not taken.
        let mut words = key.value.split_whitespace();
        let kind = words.next().unwrap_or_default();
        let known = ["ssh-", "ecdsa-", "sk-"]
            .iter()
            .any(|prefix| kind.starts_with(prefix));
        if !known || words.next().is_none() || key.value.trim().contains('\n') {
            return Err(at(
                &key,
                "an entry of ssh_authorized_keys is no OpenSSH public key",
            ));
        }
        keys.push(key.value.trim().to_owned());
    }
    let slipway = raw.slipway.unwrap_or_default();
    Ok(Seed {
        hostname: raw
            .hostname
            .map(|name| dns_name(&name, "hostname"))
            .transpose()?,
        ssh_authorized_keys: keys,
        cluster: match slipway.cluster {
            Some(cluster) => check_cluster(cluster)?,
            None => Cluster::default(),
        },
        node_api: slipway.node_api.map(check_node_api).transpose()?,
    })
}

fn check_node_api(raw: RawNodeApi) -> Result<NodeApi, SeedError> {
    check_pem(&raw.ca, "CERTIFICATE", "node-api.ca")?;
    check_pem(&raw.certificate, "CERTIFICATE", "node-api.certificate")?;
    check_pem(&raw.key, "PRIVATE KEY", "node-api.key")?;
    Ok(NodeApi {
        ca: raw.ca.value,
        certificate: raw.certificate.value,
        key: Secret::new(raw.key.value),
    })
}

/// A whole PEM block of that label, as far as its first and last line tell.
fn check_pem(value: &Spanned<String>, label: &str, key: &str) -> Result<(), SeedError> {
    let text = value.value.trim();
    let begins = text.starts_with("-----BEGIN ");
    if begins && text.ends_with(&format!("{label}-----")) {
        return Ok(());
    }
    Err(at(value, format!("{key} has no whole PEM {label} here")))
}

fn check_cluster(raw: RawCluster) -> Result<Cluster, SeedError> {
    let default = Cluster::default();
    let name = match raw.name {
        Some(name) => label(&name, "name")?,
        None => default.name,
    };
    let role = match raw.role {
        None => Role::Server,
        Some(role) => match role.value.as_str() {
            "server" => Role::Server,
            "agent" => Role::Agent,
            _ => return Err(at(&role, "role is neither server nor agent")),
        },
    };
    let extra_sans = raw
        .extra_sans
        .iter()
        .map(|san| match san.value.parse::<IpAddr>() {
            Ok(address) => Ok(San::Address(address)),
            Err(_) => dns_name(san, "an entry of extra-sans").map(San::Dns),
        })
        .collect::<Result<_, _>>()?;
    let token = match raw.token {
        Some(token) if token.value.trim().is_empty() => return Err(at(&token, "token is empty")),
        token => token.map(|token| Secret::new(token.value.trim())),
    };
    let pod_cidr = cidr(raw.pod_cidr.as_ref(), "pod-cidr", default.pod_cidr)?;
    let service_cidr = cidr(
        raw.service_cidr.as_ref(),
        "service-cidr",
        default.service_cidr,
    )?;
    if pod_cidr.overlaps(service_cidr) {
        let message = format!("pod-cidr {pod_cidr} and service-cidr {service_cidr} overlap");
        let place = raw.service_cidr.as_ref().or(raw.pod_cidr.as_ref());
        return Err(place.map_or_else(|| invalid(0, &message), |place| at(place, &message)));
    }
    let cluster_domain = match &raw.cluster_domain {
        Some(domain) => dns_name(domain, "cluster-domain")?,
        None => default.cluster_domain,
    };
    let ca = raw.ca.map(check_cas).transpose()?.flatten();
    Ok(Cluster {
        name,
        role,
        extra_sans,
        token,
        pod_cidr,
        service_cidr,
        cluster_domain,
        ca,
    })
}

fn check_cas(raw: RawCas) -> Result<Option<CaSeed>, SeedError> {
    let given = [&raw.cluster, &raw.etcd, &raw.front_proxy];
    let Some(first) = given.into_iter().flatten().next() else {
        return Ok(None);
    };
    let line = first.certificate.referenced.line();
    let pair = |pair: Option<RawPair>, name: &str| {
        let pair = pair.ok_or_else(|| {
            invalid(
                line,
                format!("ca lacks {name}: give all of cluster, etcd, front-proxy or none"),
            )
        })?;
        check_pem(&pair.certificate, "CERTIFICATE", &format!("ca.{name}"))?;
        check_pem(&pair.key, "PRIVATE KEY", &format!("ca.{name}"))?;
        Ok(CaPair {
            certificate: pair.certificate.value,
            key: Secret::new(pair.key.value),
        })
    };
    Ok(Some(CaSeed {
        cluster: pair(raw.cluster, "cluster")?,
        etcd: pair(raw.etcd, "etcd")?,
        front_proxy: pair(raw.front_proxy, "front-proxy")?,
    }))
}

/// A network with room for what the cluster puts into it.
fn cidr(value: Option<&Spanned<String>>, key: &str, default: Cidr) -> Result<Cidr, SeedError> {
    let Some(value) = value else {
        return Ok(default);
    };
    let cidr: Cidr = value
        .value
        .parse()
        .map_err(|error| at(value, format!("{key}: {:?} {error}", value.value)))?;
    // 256 addresses: a node's share of pods, or the well-known service addresses.
    // kube-apiserver takes at most 20 host bits of services for IPv4, 64 for IPv6 (16 allocated).
    let host_bits = cidr.width() - cidr.prefix();
    if host_bits < 8 {
        return Err(at(
            value,
            format!("{key}: {cidr} is too small, a /24 is the least"),
        ));
    }
    if key == "service-cidr" && host_bits > 20 {
        return Err(at(
            value,
            format!("{key}: {cidr} is too large, 2^20 addresses are the most"),
        ));
    }
    Ok(cidr)
}

/// An RFC 1123 label in lower case.
fn label(value: &Spanned<String>, key: &str) -> Result<String, SeedError> {
    let text = value.value.to_ascii_lowercase();
    if is_label(&text) {
        Ok(text)
    } else {
        Err(at(
            value,
            format!(
                "{key}: {:?} is no name of letters, digits and hyphens",
                value.value
            ),
        ))
    }
}

/// An RFC 1123 name in lower case.
fn dns_name(value: &Spanned<String>, key: &str) -> Result<String, SeedError> {
    let text = value.value.to_ascii_lowercase();
    if text.len() <= 253 && text.split('.').all(is_label) {
        Ok(text)
    } else {
        Err(at(
            value,
            format!("{key}: {:?} is no valid name (RFC 1123)", value.value),
        ))
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The text again as a tree that knows the lines of its keys.
enum Node {
    Map(Vec<(Spanned<String>, Node)>),
    List(Vec<Node>),
    Leaf,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;
        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("YAML")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_str<E>(self, _: &str) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_bytes<E>(self, _: &[u8]) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Leaf)
            }
        }
        deserializer.deserialize_any(NodeVisitor)
    }
}

/// The keys and indices of a path.
fn components(path: &serde_ignored::Path<'_>) -> Vec<String> {
    use serde_ignored::Path;
    match path {
        Path::Root => Vec::new(),
        Path::Map { parent, key } => {
            let mut all = components(parent);
            all.push(key.clone());
            all
        }
        Path::Seq { parent, index } => {
            let mut all = components(parent);
            all.push(index.to_string());
            all
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => components(parent),
    }
}

fn warnings(text: &str, ignored: &[Vec<String>]) -> Result<Vec<Warning>, SeedError> {
    let tree: Option<Node> =
        serde_saphyr::from_str_with_options(text, options()).map_err(yaml_error)?;
    let tree = tree.unwrap_or(Node::Leaf);
    let mut warnings: Vec<Warning> = ignored
        .iter()
        .map(|path| {
            let key = path.last().map_or("", String::as_str);
            let mut message = format!("unknown key `{}` has no effect", path.join("."));
            if let Some(near) = near_miss(key) {
                message.push_str(&format!("; did you mean `{near}`?"));
            }
            Warning {
                line: line_of(&tree, path).unwrap_or(0),
                message,
            }
        })
        .collect();
    warnings.sort_by_key(|warning| warning.line);
    Ok(warnings)
}

fn line_of(tree: &Node, path: &[String]) -> Option<u64> {
    let (first, rest) = path.split_first()?;
    match tree {
        Node::Map(entries) => {
            let (key, value) = entries.iter().find(|(key, _)| &key.value == first)?;
            line_of(value, rest).or(Some(key.referenced.line()))
        }
        Node::List(items) => line_of(items.get(first.parse::<usize>().ok()?)?, rest),
        Node::Leaf => None,
    }
}

/// The known key that differs least, if it differs little.
fn near_miss(key: &str) -> Option<&'static str> {
    let key = key.replace('_', "-");
    KEYS.into_iter()
        .map(|known| (distance(&key, &known.replace('_', "-")), known))
        .filter(|(distance, known)| *distance <= 2 && *distance < known.len() / 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (above, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let cell = (diagonal + usize::from(x != y))
                .min(left + 1)
                .min(*above + 1);
            diagonal = *above;
            *above = cell;
            left = cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
