//! A number for all structures, and other ones for some: `2,liver=3`.

use std::collections::BTreeMap;

/// One entry: `2` for all structures, or `liver=3` for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub structure: Option<String>,
    pub value: f64,
}

impl Entry {
    /// None for what is no number, or no name with one.
    pub fn parse(text: &str) -> Option<Self> {
        let (structure, number) = match text.rsplit_once('=') {
            Some((name, number)) => (Some(name.trim().to_owned()), number),
            None => (None, text),
        };
        let value = number.trim().parse().ok()?;
        Some(Self { structure, value })
    }
}

/// The number of every structure.
#[derive(Debug, Clone, PartialEq)]
pub struct ByStructure {
    usual: f64,
    named: BTreeMap<String, f64>,
}

impl ByStructure {
    /// `usual` for all structures, but for what the entries say; of several for one the last counts.
    pub fn new(usual: f64, entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut all = Self {
            usual,
            named: BTreeMap::new(),
        };
        for Entry { structure, value } in entries {
            match structure {
                Some(structure) => drop(all.named.insert(structure, value)),
                None => all.usual = value,
            }
        }
        all
    }

    /// Of the structure of this name.
    pub fn of(&self, structure: &str) -> f64 {
        self.named.get(structure).copied().unwrap_or(self.usual)
    }

    /// Structures that have one of their own.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_of_all_or_of_one() {
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
