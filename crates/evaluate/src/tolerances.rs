//! Surface Dice tolerances.

use std::str::FromStr;

use ctseg_base::text::by_structure::{ByStructure, Entry};
use ctseg_base::{Error, Result};

pub const DEFAULT_MM: f64 = 2.0;

/// Surface Dice tolerances in mm: a default, and exceptions by structure name.
#[derive(Debug, Clone, PartialEq)]
pub struct Tolerances(ByStructure);

impl Default for Tolerances {
    fn default() -> Self {
        Self(ByStructure::new(DEFAULT_MM, []))
    }
}

/// One tolerance: `2.5` for all structures, or `liver=3` for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Tolerance(Entry);

impl FromStr for Tolerance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let entry = Entry::parse(text);
        let entry = entry.filter(|entry| entry.value.is_finite() && entry.value >= 0.0);
        entry.map(Self).ok_or_else(|| {
            Error::usage(format!(
                "'{text}' is not a tolerance; expected millimetres for all structures, such as 2, or for one, such as liver=3"
            ))
        })
    }
}

impl FromIterator<Tolerance> for Tolerances {
    fn from_iter<I: IntoIterator<Item = Tolerance>>(given: I) -> Self {
        let entries = given.into_iter().map(|tolerance| tolerance.0);
        Self(ByStructure::new(DEFAULT_MM, entries))
    }
}

impl Tolerances {
    /// The tolerance of the structure with this name, in mm.
    pub fn of(&self, structure: &str) -> f64 {
        self.0.of(structure)
    }

    /// Names of structures with their own tolerance.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.0.named()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tolerance_applies_to_all_structures_or_to_one() {
        let parsed = ["3", "liver=1.5"].map(|text| text.parse::<Tolerance>().unwrap());
        let all: Tolerances = parsed.into_iter().collect();
        assert_eq!((all.of("spleen"), all.of("liver")), (3.0, 1.5));
        assert_eq!(Tolerances::default().of("liver"), DEFAULT_MM);
        for wrong in ["", "liver", "liver=", "-1", "x=nan"] {
            let error = wrong.parse::<Tolerance>().unwrap_err().to_string();
            assert!(error.contains("millimetres"), "{error}");
        }
    }
}
