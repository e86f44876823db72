//! Taking secrets out of texts that leave the node: what the seed says is secret, private
//! keys, and what looks like a credential.

/// What stands in a secret's place.
const REDACTED: &str = "(redacted)";
/// Shorter texts would be found everywhere.
const SHORTEST: usize = 6;

/// What is to be taken out.
#[derive(Debug, Default)]
pub struct Redactor {
    secrets: Vec<String>,
}

impl Redactor {
    /// One that knows these secrets, and in those of several lines each line.
    #[must_use]
    pub fn new(known: &[String]) -> Self {
        let lines = known.iter().flat_map(|secret| secret.lines());
        let mut secrets: Vec<String> = known
            .iter()
            .map(String::as_str)
            .chain(lines)
            .map(str::trim)
            .filter(|secret| secret.len() >= SHORTEST && !secret.starts_with("-----"))
            .map(str::to_owned)
            .collect();
        // A longer one may hold a shorter one.
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        secrets.dedup();
        Self { secrets }
    }

    /// The text without secrets.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut out = private_keys(text);
        for secret in &self.secrets {
            if out.contains(secret.as_str()) {
                out = out.replace(secret.as_str(), REDACTED);
            }
        }
        out.split_inclusive('\n').map(line).collect()
    }
}

/// Without PEM blocks of private keys; one that is cut off goes to the text's end.
fn private_keys(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("PRIVATE KEY-----") {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        out.push_str("PRIVATE KEY----- ");
        out.push_str(REDACTED);
        match tail.find("-----END ") {
            None => return out,
            Some(end) => {
                let tail = tail.get(end..).unwrap_or_default();
                let close = "PRIVATE KEY-----";
                let skip = tail.find(close).map_or(tail.len(), |n| n + close.len());
                rest = tail.get(skip..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// Without words that look like credentials.
fn line(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut word = String::new();
    let mut bearer = false;
    let end = |word: &mut String, bearer: &mut bool, out: &mut String| {
        let secret = *bearer || is_credential(word);
        *bearer = word.eq_ignore_ascii_case("bearer");
        out.push_str(if secret && !word.is_empty() {
            REDACTED
        } else {
            word
        });
        word.clear();
    };
    for c in line.chars() {
        if c.is_ascii_alphanumeric() || "._-+/:".contains(c) {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            end(&mut word, &mut bearer, &mut out);
        }
        out.push(c);
    }
    end(&mut word, &mut bearer, &mut out);
    out
}

/// A JSON web token, a bootstrap token (`abcdef.0123456789abcdef`), or a long base64 of a key
/// in a kubeconfig.
fn is_credential(word: &str) -> bool {
    if word.starts_with("eyJ") && word.matches('.').count() >= 2 {
        return true;
    }
    // `LS0tLS1CRUdJTi...` is base64 of `-----BEGIN `; certificates are no loss either.
    if word.starts_with("LS0tLS1CRUdJTi") {
        return true;
    }
    let bootstrap = |(id, secret): (&str, &str)| {
        let plain = |t: &str| {
            t.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        // A secret has digits; a name of two words in this shape has not.
        id.len() == 6
            && secret.len() == 16
            && plain(id)
            && plain(secret)
            && secret.bytes().any(|b| b.is_ascii_digit())
    };
    let token = word.trim_matches(['.', ':', '/']);
    token.split_once('.').is_some_and(bootstrap)
        || token
            .rsplit_once(':')
            .and_then(|(_, last)| last.split_once('.'))
            .is_some_and(bootstrap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let redactor = Redactor::new(&["hunter22".into(), "s".into()]);
        let text = "password=hunter22, user=s\nAuthorization: Bearer abc.def\n\
                    token abcdef.0123456789abcdef and eyJhbGciOi.eyJpc3Mi.c2ln\n\
                    kube-apiserver.service is fine, 10.0.0.1:6443 too\n";
        let out = redactor.text(text);
        for gone in ["hunter22", "abc.def", "0123456789abcdef", "eyJpc3Mi"] {
            assert!(!out.contains(gone), "{out}");
        }
        for kept in [
            "user=s",
            "kube-apiserver.service",
            "10.0.0.1:6443",
            "token ",
        ] {
            assert!(out.contains(kept), "{out}");
        }
    }

    #[test]
    fn keys_go_even_when_cut_off() {
        let key = "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n";
        let redactor = Redactor::default();
        let out = redactor.text(&format!("a\n{key}b\n{key}c\n"));
        assert!(!out.contains("c2VjcmV0"), "{out}");
        assert!(
            out.contains("a\n") && out.contains("b\n") && out.ends_with("c\n"),
            "{out}"
        );
        let out = redactor.text(&key[..50]);
        assert!(!out.contains("c2Vj"), "{out}");
        // A line of a key that the seed has, alone.
        let redactor = Redactor::new(&[key.to_owned()]);
        assert!(!redactor.text("x c2VjcmV0 y").contains("c2VjcmV0"));
    }

    proptest! {
        #[test]
        fn a_known_secret_never_comes_through(
            before in "\\PC{0,40}", secret in "[a-zA-Z0-9/+=]{6,40}", after in "\\PC{0,40}",
        ) {
            let redactor = Redactor::new(std::slice::from_ref(&secret));
            let out = redactor.text(&format!("{before}{secret}{after}"));
            prop_assume!(!REDACTED.contains(&secret));
            prop_assert!(!out.contains(&secret), "{}", out);
        }
    }
}
