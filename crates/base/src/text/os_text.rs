//! File names as text and back. On Linux a name may be any bytes: those that are not UTF-8 are written as `\xFC`, so
//! that different names stay different and files are found again.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A name or path as text: UTF-8 unchanged, each other byte as `\x` and two hex digits. A backslash that would read as
/// such an escape is written as `\x5C`.
pub fn to_text(name: impl AsRef<OsStr>) -> String {
    let mut text = String::new();
    for chunk in name.as_ref().as_bytes().utf8_chunks() {
        let valid = chunk.valid();
        for (at, c) in valid.char_indices() {
            match c == '\\' && escaped(&valid.as_bytes()[at..]).is_some() {
                true => text += "\\x5C",
                false => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02X}");
        }
    }
    text
}

/// Reverses [`to_text`].
pub fn from_text(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some(first) = rest.first() {
        let byte = escaped(rest);
        bytes.push(byte.unwrap_or(*first));
        rest = &rest[if byte.is_some() { 4 } else { 1 }..];
    }
    OsString::from_vec(bytes)
}

/// The byte of an escape such as `\xFC` at the start.
fn escaped(bytes: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = bytes else {
        return None;
    };
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    Some(16 * digit(high)? + digit(low)?)
}

/// A path in JSON, for `#[serde(with = "…")]`; serde itself refuses paths that are not UTF-8.
pub mod path {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(path: impl AsRef<Path>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&to_text(path.as_ref()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(from_text(&String::deserialize(from)?).into())
    }
}

/// [`path`](mod@path) for a list.
pub mod paths {
    use super::*;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(paths: &[PathBuf], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(to_text))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        Ok(texts.iter().map(|text| from_text(text).into()).collect())
    }
}

/// [`path`](mod@path) for the keys of a map.
pub mod path_keys {
    use super::*;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::BTreeMap;

    pub fn serialize<S: Serializer, T: Serialize>(
        table: &BTreeMap<PathBuf, T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(table.iter().map(|(path, value)| (to_text(path), value)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        from: D,
    ) -> Result<BTreeMap<PathBuf, T>, D::Error> {
        let table = BTreeMap::<String, T>::deserialize(from)?;
        let entries = table.into_iter();
        Ok(entries
            .map(|(text, value)| (from_text(&text).into(), value))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Paths {
        #[serde(with = "path")]
        one: PathBuf,
        #[serde(with = "paths")]
        several: Vec<PathBuf>,
        #[serde(with = "path_keys")]
        table: BTreeMap<PathBuf, u8>,
    }

    fn latin1(text: &[u8]) -> PathBuf {
        OsStr::from_bytes(text).into()
    }

    #[test]
    fn names_round_trip_and_stay_different() {
        for (name, text) in [
            (&b"case 1.nii.gz"[..], "case 1.nii.gz"),
            ("Größe/\\x".as_bytes(), "Größe/\\x"),
            (b"M\xfcller", "M\\xFCller"),
            (b"M\\xFCller", "M\\x5CxFCller"),
            (b"\xff\xc3", "\\xFF\\xC3"),
            (b"\\\\x41", "\\\\x5Cx41"),
        ] {
            let name = latin1(name);
            assert_eq!(to_text(&name), text);
            assert_eq!(from_text(text), name);
        }
    }

    #[test]
    fn paths_of_any_bytes_round_trip_through_json() {
        let paths = Paths {
            one: latin1(b"a/M\xfcller.nii.gz"),
            several: vec![latin1(b"x"), latin1(b"\xe4")],
            table: BTreeMap::from([(latin1(b"\xe4"), 3)]),
        };
        let text = serde_json::to_string(&paths).unwrap();
        assert_eq!(
            text,
            r#"{"one":"a/M\\xFCller.nii.gz","several":["x","\\xE4"],"table":{"\\xE4":3}}"#
        );
        assert_eq!(serde_json::from_str::<Paths>(&text).unwrap(), paths);
    }
}
