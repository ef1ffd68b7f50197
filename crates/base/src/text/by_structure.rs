//! A number per structure, with a default: `2,liver=3`.

use std::collections::BTreeMap;

/// One entry: `2` for all structures, or `liver=3` for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub structure: Option<String>,
    pub value: f64,
}

impl Entry {
    /// `None` unless the text is a number, or a name with a number.
    pub fn parse(text: &str) -> Option<Self> {
        let (structure, number) = match text.rsplit_once('=') {
            Some((name, number)) => (Some(name.trim().to_owned()), number),
            None => (None, text),
        };
        let value = number.trim().parse().ok()?;
        Some(Self { structure, value })
    }
}

/// A number per structure.
#[derive(Debug, Clone, PartialEq)]
pub struct ByStructure {
    default: f64,
    overrides: BTreeMap<String, f64>,
}

impl ByStructure {
    /// `default` for all structures, overridden by the entries; the last entry for a structure counts.
    pub fn new(default: f64, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut all = Self {
            default,
            overrides: BTreeMap::new(),
        };
        for Entry { structure, value } in entries {
            match structure {
                Some(structure) => drop(all.overrides.insert(structure, value)),
                None => all.default = value,
            }
        }
        all
    }

    /// The number of a structure.
    pub fn of(&self, structure: &str) -> f64 {
        self.overrides
            .get(structure)
            .copied()
            .unwrap_or(self.default)
    }

    /// Structures with a number of their own.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.overrides.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_for_all_or_one_structure() {
        let entries =
            ["3", "liver=1.5", "liver=2", "a=b=7"].map(|text| Entry::parse(text).unwrap());
        let all = ByStructure::new(1.0, entries);
        assert_eq!(
            (all.of("spleen"), all.of("liver"), all.of("a=b")),
            (3.0, 2.0, 7.0)
        );
        assert_eq!(all.named().collect::<Vec<_>>(), ["a=b", "liver"]);
        for wrong in ["", "liver", "liver=", "=x"] {
            assert_eq!(Entry::parse(wrong), None, "{wrong}");
        }
    }
}
