//! How far a surface may lie from its reference and still be right.

use std::collections::BTreeMap;
use std::str::FromStr;

use ctseg_base::{Error, Result};

/// Where nothing else is said, in mm.
pub const USUAL_MM: f64 = 2.0;

/// What surface Dice allows, in mm: for all structures, and for some others.
#[derive(Debug, Clone, PartialEq)]
pub struct Tolerances {
    usual_mm: f64,
    by_structure_mm: BTreeMap<String, f64>,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self {
            usual_mm: USUAL_MM,
            by_structure_mm: BTreeMap::new(),
        }
    }
}

/// `2.5` for all structures, or `liver=3` for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Tolerance {
    structure: Option<String>,
    mm: f64,
}

impl FromStr for Tolerance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (structure, number) = match text.rsplit_once('=') {
            Some((name, number)) => (Some(name.to_owned()), number),
            None => (None, text),
        };
        let mm = number.parse().ok();
        let mm = mm.filter(|mm: &f64| mm.is_finite() && *mm >= 0.0);
        let mm = mm.ok_or_else(|| {
            Error::usage(format!(
                "'{text}' is no tolerance; expected millimetres for all structures, such as 2, or for one, such as liver=3"
            ))
        })?;
        Ok(Self { structure, mm })
    }
}

impl FromIterator<Tolerance> for Tolerances {
    fn from_iter<I: IntoIterator<Item = Tolerance>>(given: I) -> Self {
        let mut all = Self::default();
        for Tolerance { structure, mm } in given {
            match structure {
                Some(structure) => {
                    all.by_structure_mm.insert(structure, mm);
                }
                None => all.usual_mm = mm,
            }
        }
        all
    }
}

impl Tolerances {
    /// Of the structure of this name.
    pub fn of(&self, structure: &str) -> f64 {
        let own = self.by_structure_mm.get(structure);
        own.copied().unwrap_or(self.usual_mm)
    }

    /// Structures that have one of their own.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.by_structure_mm.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerances_are_of_all_or_of_one() {
        let parsed = ["3", "liver=1.5"].map(|text| text.parse::<Tolerance>().unwrap());
        let all: Tolerances = parsed.into_iter().collect();
        assert_eq!((all.of("spleen"), all.of("liver")), (3.0, 1.5));
        assert_eq!(Tolerances::default().of("liver"), USUAL_MM);
        for wrong in ["", "liver", "liver=", "-1", "x=nan"] {
            let error = wrong.parse::<Tolerance>().unwrap_err().to_string();
            assert!(error.contains("millimetres"), "{error}");
        }
    }
}
