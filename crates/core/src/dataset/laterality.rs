//! Left and right: which labels swap when a patch is mirrored.

use std::collections::BTreeMap;

use super::Structure;
use crate::recipe::Recipe;
use ctseg_augment::FlipAxis;
use ctseg_base::progress::Observer;
use ctseg_base::text::suggest::expected;
use ctseg_base::{Error, Result};

/// For the label value of each paired structure the value of its counterpart on the other side.
///
/// `named` are pairs of names from the recipe. Other pairs are found by name: two names that differ
/// only in a side (`left`/`right`, or a word `l`/`r`, `lt`/`rt`; case is ignored).
///
/// # Errors
/// A named structure that does not exist; a structure of one side whose counterpart is missing: mirrored, it
/// would teach the network the wrong side.
pub fn counterparts(structures: &[Structure], named: &[[String; 2]]) -> Result<BTreeMap<u16, u16>> {
    let value = |name: &str| {
        let wanted = name.to_lowercase();
        let found = structures.iter().find(|s| s.name.to_lowercase() == wanted);
        found.map(|s| s.value)
    };
    let mut pairs = BTreeMap::new();
    for pair in named {
        let [one, other] = pair.each_ref().map(|name| {
            value(name).ok_or_else(|| {
                Error::invalid(format!(
                    "training.augmentation.mirror_pairs names '{name}', which is not in the dataset; its structures are {}",
                    expected(name, &structures.iter().map(|s| s.name.as_str()).collect::<Vec<_>>())
                ))
            })
        });
        let (one, other) = (one?, other?);
        pairs.insert(one, other);
        pairs.insert(other, one);
    }
    if let Some((name, other)) = unpaired_structure(structures, named) {
        return Err(Error::invalid(format!(
            "'{name}' has a side, but the dataset has no '{other}' to swap it with when patches are mirrored; remove \"x\" from training.augmentation.flip_axes, or name its pair (or ['{name}', '{name}']) in mirror_pairs"
        )));
    }
    for structure in structures {
        if let Some(other) = other_side(&structure.name).and_then(|name| value(&name)) {
            pairs.entry(structure.value).or_insert(other);
        }
    }
    Ok(pairs)
}

/// `recipe` without mirroring along x if a structure of one side has no counterpart; warns `observer`.
pub fn without_unpaired_flips(
    mut recipe: Recipe,
    structures: &[Structure],
    observer: &dyn Observer,
) -> Recipe {
    if !recipe.training.flips(FlipAxis::X) {
        return recipe;
    }
    let Some(augmentation) = recipe.training.augmentation.as_mut() else {
        return recipe;
    };
    if let Some((name, other)) = unpaired_structure(structures, &augmentation.mirror_pairs) {
        augmentation.flip_axes.retain(|axis| *axis != FlipAxis::X);
        observer.warn(&format!(
            "patches are not mirrored along x: the dataset has '{name}' but no '{other}'; name its pair in training.augmentation.mirror_pairs"
        ));
    }
    recipe
}

/// The names of paired structures, each pair once, and the first structure whose counterpart is missing,
/// with the counterpart's expected name.
pub fn lateral_pairs(structures: &[Structure]) -> (Vec<[String; 2]>, Option<(String, String)>) {
    let mut pairs: Vec<[String; 2]> = Vec::new();
    for structure in structures {
        let Some(other) = other_side(&structure.name) else {
            continue;
        };
        let other = structures.iter().find(|s| s.name.to_lowercase() == other);
        let new = |pair: &[String; 2]| pairs.iter().all(|known| known[1] != pair[0]);
        let pair = other.map(|other| [structure.name.clone(), other.name.clone()]);
        pairs.extend(pair.filter(new));
    }
    let unpaired = unpaired_structure(structures, &[]);
    (
        pairs,
        unpaired.map(|(name, other)| (name.to_owned(), other)),
    )
}

/// The first structure of one side whose counterpart is neither in the dataset nor named, and the counterpart's
/// expected name.
fn unpaired_structure<'a>(
    structures: &'a [Structure],
    named: &[[String; 2]],
) -> Option<(&'a str, String)> {
    let is = |name: &str, wanted: &str| name.to_lowercase() == wanted.to_lowercase();
    structures.iter().find_map(|structure| {
        let other = other_side(&structure.name)?;
        let paired = structures.iter().any(|s| is(&s.name, &other))
            || named.iter().flatten().any(|name| is(name, &structure.name));
        (!paired).then_some((structure.name.as_str(), other))
    })
}

/// The name in lower case with its side swapped; none for a name without a side.
fn other_side(name: &str) -> Option<String> {
    const SIDES: [[&str; 2]; 3] = [["left", "right"], ["lt", "rt"], ["l", "r"]];
    let name = name.to_lowercase();
    for [left, right] in SIDES {
        for (here, there) in [(left, right), (right, left)] {
            if let Some(at) = whole_word(&name, here) {
                return Some([&name[..at], there, &name[at + here.len()..]].concat());
            }
        }
    }
    // "LeftEye": the words left and right need not stand alone.
    let [left, right] = SIDES[0];
    for (here, there) in [(left, right), (right, left)] {
        if name.starts_with(here) || name.ends_with(here) {
            return Some(name.replacen(here, there, 1));
        }
    }
    None
}

/// The position of `word` in `name` with no letter or digit next to it.
fn whole_word(name: &str, word: &str) -> Option<usize> {
    name.match_indices(word).map(|(at, _)| at).find(|at| {
        let before = name[..*at].chars().next_back();
        let after = name[at + word.len()..].chars().next();
        [before, after]
            .into_iter()
            .flatten()
            .all(|c| !c.is_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctseg_base::progress::Silent;

    fn structures(names: &[&str]) -> Vec<Structure> {
        let numbered = (1..).zip(names);
        numbered
            .map(|(value, name)| Structure {
                value,
                name: (*name).to_owned(),
            })
            .collect()
    }

    #[test]
    fn sides_are_read_from_names() {
        for (name, expected) in [
            ("parotid_left", Some("parotid_right")),
            ("Right Lung", Some("left lung")),
            ("Glnd_Submand_L", Some("glnd_submand_r")),
            ("rib-rt-7", Some("rib-lt-7")),
            ("LeftEye", Some("righteye")),
            ("spinal_cord", None),
            ("liver", None),
            ("brainstem", None),
            ("lr_tracer", None),
            ("colon", None),
        ] {
            assert_eq!(other_side(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn only_pairs_swap() {
        let all = structures(&["liver", "kidney_left", "Kidney_Right", "odd", "even"]);
        let pairs = counterparts(&all, &[["odd".to_owned(), "Even".to_owned()]]).unwrap();
        let expected = BTreeMap::from([(2, 3), (3, 2), (4, 5), (5, 4)]);
        assert_eq!(pairs, expected);
    }

    #[test]
    fn x_flips_are_disabled_if_a_counterpart_is_missing() {
        let recipe = Recipe::named("refine2_5d", &[]).unwrap();
        let flips = |names: &[&str], recipe: &Recipe| {
            let fitted = without_unpaired_flips(recipe.clone(), &structures(names), &Silent);
            fitted.training.augmentation.unwrap().flip_axes
        };
        assert_eq!(flips(&["Eye_L", "eye_r", "liver"], &recipe), [FlipAxis::X]);
        assert_eq!(flips(&["eye_left", "liver"], &recipe), []);
        let named = "training.augmentation.mirror_pairs=[['eye_left', 'eye_left']]".to_owned();
        let named = Recipe::named("refine2_5d", &[named]).unwrap();
        assert_eq!(flips(&["eye_left", "liver"], &named), [FlipAxis::X]);
    }

    #[test]
    fn a_missing_counterpart_is_refused_unless_named() {
        let lonely = structures(&["liver", "atrium_left"]);
        let error = counterparts(&lonely, &[]).unwrap_err().to_string();
        assert!(
            error.contains("atrium_left") && error.contains("atrium_right"),
            "{error}"
        );
        let itself = [["atrium_left".to_owned(), "atrium_left".to_owned()]];
        assert_eq!(
            counterparts(&lonely, &itself).unwrap(),
            BTreeMap::from([(2, 2)])
        );
        let wrong = [["liver".to_owned(), "spleen".to_owned()]];
        let error = counterparts(&lonely, &wrong).unwrap_err().to_string();
        assert!(error.contains("spleen"), "{error}");
    }
}
