//! The text indices of kernel modules, and matching of aliases. The tables of the files are
//! described in [`crate::modules`].

use std::collections::{BTreeMap, HashMap, HashSet};

/// A name as the kernel has it in /sys/module.
pub fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// The module's name from its path: `kernel/fs/nls/nls-utf8.ko.xz` is `nls_utf8`.
pub(super) fn name_of_path(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(normalise(name))
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: String,
    /// In the order of loading.
    pub(super) dependencies: Vec<String>,
}

pub(super) fn parse_dep(text: &str) -> HashMap<String, Entry> {
    let mut map = HashMap::new();
    for line in text.lines() {
        let Some((path, dependencies)) = line.split_once(':') else {
            continue;
        };
        let Some(name) = name_of_path(path) else {
            continue;
        };
        let mut dependencies: Vec<String> = dependencies
            .split_ascii_whitespace()
            .filter_map(name_of_path)
            .collect();
        dependencies.reverse();
        let path = path.to_owned();
        map.insert(name, Entry { path, dependencies });
    }
    map
}

/// Aliases by what stands before the first `:` or `_`, so that a lookup tries few patterns.
#[derive(Debug, Default)]
pub(super) struct Aliases(HashMap<String, Vec<(String, String)>>);

impl Aliases {
    fn add(&mut self, pattern: &str, name: &str) {
        let pattern = normalise_pattern(pattern);
        let group = group(&pattern).to_owned();
        self.0
            .entry(group)
            .or_default()
            .push((pattern, normalise(name)));
    }

    pub(super) fn parse(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                self.add(pattern, name);
            }
        }
    }

    pub(super) fn parse_builtin(&mut self, bytes: &[u8]) {
        for record in bytes.split(|b| *b == 0) {
            let Ok(record) = std::str::from_utf8(record) else {
                continue;
            };
            if let Some((key, pattern)) = record.split_once('=')
                && let Some(name) = key.strip_suffix(".alias")
            {
                self.add(pattern, name);
            }
        }
    }

    pub(super) fn lookup(&self, alias: &str) -> Vec<&str> {
        let alias = normalise(alias);
        let mut groups = vec![group(&alias), ""];
        groups.dedup();
        let mut names: Vec<&str> = Vec::new();
        for key in groups {
            for (pattern, name) in self.0.get(key).into_iter().flatten() {
                if glob_match(pattern, &alias) && !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
        }
        names
    }
}

/// What stands before the first separator; empty for patterns that are open before it.
fn group(pattern: &str) -> &str {
    match pattern.find([':', '_', '*', '?', '[']) {
        Some(end) if pattern[end..].starts_with([':', '_']) => &pattern[..end],
        Some(_) => "",
        None => pattern,
    }
}

/// `-` becomes `_` but for ranges in brackets, as in kmod.
fn normalise_pattern(pattern: &str) -> String {
    let mut in_class = false;
    pattern
        .chars()
        .map(|c| {
            match c {
                '[' => in_class = true,
                ']' => in_class = false,
                _ => {}
            }
            if c == '-' && !in_class { '_' } else { c }
        })
        .collect()
}

pub(super) type Soft = HashMap<String, (Vec<String>, Vec<String>)>;

pub(super) fn parse_softdep(text: &str) -> Soft {
    let mut map = Soft::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("softdep"), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        let (pre, post) = map.entry(normalise(name)).or_default();
        let mut into_post = None;
        for word in words {
            match (word, into_post) {
                ("pre:", _) => into_post = Some(false),
                ("post:", _) => into_post = Some(true),
                (word, Some(false)) => pre.push(normalise(word)),
                (word, Some(true)) => post.push(normalise(word)),
                (_, None) => {}
            }
        }
    }
    map
}

/// glob(7) for aliases: `*`, `?` and `[a-z]`. Linear in practice: only the last `*` is
/// tried again.
pub fn glob_match(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            None if t == text.len() => return true,
            None => None,
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'[') => match_class(pattern, p, text.get(t).copied()),
            Some(b'?') => text.get(t).map(|_| p + 1),
            Some(b) => (text.get(t) == Some(b)).then_some(p + 1),
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((after, from))) if from < text.len() => {
                p = after;
                t = from + 1;
                star = Some((after, t));
            }
            (None, _) => return false,
        }
    }
}

/// Gives where the pattern goes on after the class at `start`, if `byte` is in it.
fn match_class(pattern: &[u8], start: usize, byte: Option<u8>) -> Option<usize> {
    let byte = byte?;
    let mut at = start + 1;
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    if negated {
        at += 1;
    }
    let mut found = false;
    let first = at;
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > first {
            return (found != negated).then_some(at + 1);
        }
        if pattern.get(at + 1) == Some(&b'-') && pattern.get(at + 2).is_some_and(|b| *b != b']') {
            let high = *pattern.get(at + 2)?;
            found |= (low..=high).contains(&byte);
            at += 3;
        } else {
            found |= low == byte;
            at += 1;
        }
    }
}

/// One line of modules.d: a module and its options.
pub fn parse_modules_conf(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next()?.trim();
            let (name, options) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            (!name.is_empty()).then(|| (normalise(name), options.trim().to_owned()))
        })
        .collect()
}

/// Options (`module.option=value`) and `modprobe.blacklist=a,b` of a kernel command line.
pub(super) fn parse_cmdline(text: &str) -> (BTreeMap<String, String>, HashSet<String>) {
    let mut options: BTreeMap<String, String> = BTreeMap::new();
    let mut blacklist = HashSet::new();
    for word in text.split_ascii_whitespace() {
        if let Some(list) = word.strip_prefix("modprobe.blacklist=") {
            blacklist.extend(list.split(',').map(normalise));
        } else if let Some((module, option)) = word.split_once('.')
            && !module.contains('=')
        {
            let all = options.entry(normalise(module)).or_default();
            if !all.is_empty() {
                all.push(' ');
            }
            all.push_str(option);
        }
    }
    (options, blacklist)
}
