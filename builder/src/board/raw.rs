//! A board's TOML as written: every key optional, unknown ones refused, values
//! checked one by one so that errors have the place where they stand.
//!
//! [`Raw::overlay`] is inheritance: tables merge, values replace, lists replace
//! unless written `{ add = [...], remove = [...] }`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use slipway_images::info::Loader;
use toml::Spanned;

use super::rules::Pattern;
use super::values::{Command, KeyName, Megabytes, ModuleName, PackageName, Sysctl, Word};
use super::{Architecture, BootFile, RawPiece, Suite};
use crate::secure_boot::Enroll;

macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $kind:ident $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(crate) struct $name {
            $($(#[$attr])* pub $field: table!(@type $kind $type),)*
        }

        impl $name {
            /// What is here, and from `base` what isn't. `lost` gets what a list
            /// should lose but doesn't have.
            #[allow(unused_variables, clippy::ptr_arg, reason = "tables without lists lose nothing")]
            fn overlay(self, base: Self, lost: &mut Vec<Lost>) -> Self {
                Self { $($field: table!(@overlay $kind self.$field, base.$field, lost),)* }
            }
        }
    };
    (@type value $type:ty) => { Option<$type> };
    (@type list $type:ty) => { Option<RawList<$type>> };
    (@type sysctl $type:ty) => { Option<BTreeMap<String, $type>> };
    (@type table $type:ty) => { Option<$type> };
    (@overlay value $over:expr, $base:expr, $lost:expr) => { $over.or($base) };
    (@overlay list $over:expr, $base:expr, $lost:expr) => { RawList::overlay($over, $base, $lost) };
    (@overlay sysctl $over:expr, $base:expr, $lost:expr) => {
        match ($over, $base) {
            (Some(over), Some(mut base)) => { base.extend(over); Some(base) }
            (over, base) => over.or(base),
        }
    };
    (@overlay table $over:expr, $base:expr, $lost:expr) => {
        match ($over, $base) {
            (Some(over), Some(base)) => Some(over.overlay(base, $lost)),
            // A table without a base still has lists to edit.
            (Some(over), None) => Some(over.overlay(Default::default(), $lost)),
            (None, base) => base,
        }
    };
}

table! {
    /// A file.
    Raw {
        inherits: value Spanned<Inherits>,
        description: value String,
        architecture: value Architecture,
        debian: table RawDebian,
        packages: table RawPackages,
        kernel: table RawKernel,
        paths: table RawPaths,
        boot: table RawBoot,
        image: table RawImage,
        node: table RawNode,
        qemu: table RawQemu,
    }
}

table! {
    /// `[debian]`
    RawDebian {
        keyring: list KeyName,
        suites: list Suite,
    }
}

table! {
    /// `[packages]`
    RawPackages {
        install: list PackageName,
        exclude: list PackageName,
    }
}

table! {
    /// `[kernel]`
    RawKernel {
        package: value PackageName,
        command_line: list Word,
        initrd_modules: list ModuleName,
        modules: table RawModules,
    }
}

table! {
    /// `[kernel.modules]`
    RawModules {
        include: list Pattern,
        exclude: list Pattern,
    }
}

table! {
    /// `[paths]`
    RawPaths {
        exclude: list Pattern,
        keep: list Pattern,
    }
}

table! {
    /// `[boot]`
    RawBoot {
        method: value Loader,
        package: value PackageName,
        secure_boot_enroll: value Enroll,
        files: list BootFile,
        raw: list RawPiece,
        device_trees: list Pattern,
        overlays: list Pattern,
        commands: list Command,
        config_txt: list Command,
    }
}

table! {
    /// `[image]`
    RawImage {
        first_partition: value Megabytes,
        hybrid_mbr: value bool,
        boot_size: value Megabytes,
        slot_boot_size: value Megabytes,
        slot_size: value Megabytes,
        compression_level: value Spanned<i32>,
        imager_devices: list Word,
    }
}

table! {
    /// `[node]`
    RawNode {
        modules: list ModuleName,
        sysctl: sysctl Sysctl,
    }
}

table! {
    /// `[qemu]`
    RawQemu {
        cpus: value Spanned<u32>,
        memory: value Megabytes,
    }
}

/// `inherits`: names of files, the lowest first: `"base"`, or `["x86_64", "base-wifi"]`.
#[derive(Debug, Default)]
pub(crate) struct Inherits(pub Vec<String>);

impl<'de> Deserialize<'de> for Inherits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Inherits;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a board, or a list of names")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Inherits, E> {
                Ok(Inherits(vec![name.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Inherits, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Inherits(names))
            }
        }
        deserializer.deserialize_any(Names)
    }
}

impl Raw {
    /// This file on top of the one it inherits from.
    pub fn on(self, base: Self) -> (Self, Vec<Lost>) {
        let mut lost = Vec::new();
        (self.overlay(base, &mut lost), lost)
    }
}

/// Something a list should lose but doesn't have.
#[derive(Debug)]
pub(crate) struct Lost {
    /// What.
    pub item: String,
    /// Where it says so.
    pub span: Range<usize>,
    /// What the list has.
    pub known: Vec<String>,
}

/// A list as a whole, or as a change to the inherited one.
#[derive(Debug)]
pub(crate) enum RawList<T> {
    /// `[...]`
    Whole(Vec<T>),
    /// `{ add = [...], remove = [...] }`
    Change {
        /// Appended.
        add: Vec<T>,
        /// Taken away first.
        remove: Vec<Spanned<T>>,
    },
}

impl<T: PartialEq + fmt::Display> RawList<T> {
    fn overlay(over: Option<Self>, base: Option<Self>, lost: &mut Vec<Lost>) -> Option<Self> {
        let (add, remove) = match over {
            None => return base,
            Some(Self::Whole(list)) => return Some(Self::Whole(list)),
            Some(Self::Change { add, remove }) => (add, remove),
        };
        let mut list = base.map(Self::into_items).unwrap_or_default();
        for item in remove {
            let before = list.len();
            list.retain(|known| known != item.get_ref());
            if list.len() == before {
                lost.push(Lost {
                    item: item.get_ref().to_string(),
                    span: item.span(),
                    known: list.iter().map(ToString::to_string).collect(),
                });
            }
        }
        for item in add {
            if !list.contains(&item) {
                list.push(item);
            }
        }
        Some(Self::Whole(list))
    }

    /// The items; of a change those that are added.
    pub fn into_items(self) -> Vec<T> {
        match self {
            Self::Whole(list) => list,
            Self::Change { add, .. } => add,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for RawList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = RawList<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, or `{ add = [...], remove = [...] }`")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(RawList::Whole(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, bound = "T: Deserialize<'de>")]
        struct Change<T> {
            #[serde(default = "Vec::new")]
            add: Vec<T>,
            #[serde(default = "Vec::new")]
            remove: Vec<Spanned<T>>,
        }
        let change = Change::deserialize(MapAccessDeserializer::new(map))?;
        if change.add.is_empty() && change.remove.is_empty() {
            return Err(de::Error::custom("this changes nothing"));
        }
        Ok(RawList::Change {
            add: change.add,
            remove: change.remove,
        })
    }
}
