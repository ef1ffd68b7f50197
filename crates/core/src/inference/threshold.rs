//! Probability thresholds of structures.

use std::collections::BTreeMap;
use std::str::FromStr;

use ctseg_base::text::by_structure::{ByStructure, Entry};
use ctseg_base::text::suggest::nearest;
use ctseg_base::{Error, Result};

/// The threshold unless one is given.
const DEFAULT: f64 = 0.5;

/// Number of names that an error about an unknown one suggests.
const MAX_NAMES: usize = 6;

/// One threshold for all structures, with exceptions for some.
///
/// An independent structure is marked where its own probability is above its threshold. With exclusive classes a
/// structure competes where its probability relative to the background, p / (p + p(background)), is above it; among
/// several, the one with the largest margin in logits wins. 0.5 is the plain arg max.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds(ByStructure);

impl Default for Thresholds {
    fn default() -> Self {
        Self(ByStructure::new(DEFAULT, []))
    }
}

/// `0.3` for all structures, or `liver=0.3` for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold(Entry);

impl FromStr for Threshold {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let entry = Entry::parse(text).filter(|entry| entry.value > 0.0 && entry.value < 1.0);
        entry.map(Self).ok_or_else(|| {
            Error::usage(format!(
                "'{text}' is not a threshold; expected a probability between 0 and 1 for all structures, such as 0.3, or \
                 for one, such as liver=0.3"
            ))
        })
    }
}

impl FromIterator<Threshold> for Thresholds {
    fn from_iter<I: IntoIterator<Item = Threshold>>(given: I) -> Self {
        let entries = given.into_iter().map(|threshold| threshold.0);
        Self(ByStructure::new(DEFAULT, entries))
    }
}

impl Thresholds {
    pub fn of(&self, structure: &str) -> f64 {
        self.0.of(structure)
    }

    /// The thresholds of `structures` that differ from the default.
    pub fn non_default<'a>(
        &self,
        structures: impl IntoIterator<Item = &'a str>,
    ) -> BTreeMap<String, f64> {
        let all = structures.into_iter().map(|name| (name, self.of(name)));
        all.filter(|(_, threshold)| *threshold != DEFAULT)
            .map(|(name, threshold)| (name.to_owned(), threshold))
            .collect()
    }

    /// The same thresholds for a part of a model: `names` are pairs of the part's own structure name and that of the
    /// whole model.
    pub fn renamed<'a>(&self, names: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let entries = names.into_iter().map(|(own, name)| Entry {
            structure: Some(own.to_owned()),
            value: self.of(name),
        });
        Self(ByStructure::new(DEFAULT, entries))
    }

    /// # Errors
    /// A threshold for a structure that the model does not have.
    pub fn refuse_unknown<'a>(&self, known: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        let mut named = self.0.named();
        match named.find(|name| known.clone().all(|known| known != *name)) {
            None => Ok(()),
            Some(unknown) => Err(Error::usage(format!(
                "--threshold {unknown}=…: the model has no such structure; expected one of {} (nearest first)",
                nearest(unknown, known, MAX_NAMES).join(", ")
            ))),
        }
    }
}

/// The logit of a probability: ln(p / (1 − p)).
pub fn logit(probability: f64) -> f32 {
    (probability / (1.0 - probability)).ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_apply_to_all_structures_or_to_one() {
        let parsed = ["0.3", "liver=0.7"].map(|text| text.parse::<Threshold>().unwrap());
        let all: Thresholds = parsed.into_iter().collect();
        assert_eq!((all.of("spleen"), all.of("liver")), (0.3, 0.7));
        let non_default = all.non_default(["liver", "spleen"]);
        assert_eq!(non_default.values().collect::<Vec<_>>(), [&0.7, &0.3]);
        assert!(Thresholds::default().non_default(["liver"]).is_empty());
        let part = all.renamed([("class_1", "liver"), ("class_2", "spleen")]);
        assert_eq!((part.of("class_1"), part.of("class_2")), (0.7, 0.3));
        let known = ["liver", "spleen"];
        assert!(all.refuse_unknown(known.into_iter()).is_ok());
        let error = all
            .refuse_unknown(["lever"].into_iter())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("liver") && error.contains("lever"),
            "{error}"
        );
        for wrong in ["", "0", "1", "-1", "liver", "liver=2", "nan"] {
            let error = wrong.parse::<Threshold>().unwrap_err().to_string();
            assert!(error.contains("between 0 and 1"), "{error}");
        }
        assert_eq!(logit(0.5), 0.0);
        // python3 -c "import math; print(math.log(0.3 / 0.7))"
        assert!((logit(0.3) - -0.847_297_9).abs() < 1e-6);
    }
}
