//! Loads recipes from the binary or TOML files, with overrides.

use std::path::Path;

use super::scaled_patience::scaled_patience;
use super::{Recipe, one_line};
use ctseg_base::text::file::read_text_at_most;
use ctseg_base::{Error, Result};

/// Embedded recipes: name, text. `--stage 1` is the first, `--stage 2` the second.
const EMBEDDED: [(&str, &str); 11] = [
    ("coarse", include_str!("../../../../stages/coarse.toml")),
    ("refine", include_str!("../../../../stages/refine.toml")),
    (
        "refine2_5d",
        include_str!("../../../../stages/refine2_5d.toml"),
    ),
    ("single", include_str!("../../../../stages/single.toml")),
    ("resenc", include_str!("../../../../stages/resenc.toml")),
    ("slices", include_str!("../../../../stages/slices.toml")),
    (
        "demo-coarse",
        include_str!("../../../../stages/demo-coarse.toml"),
    ),
    (
        "demo-refine",
        include_str!("../../../../stages/demo-refine.toml"),
    ),
    (
        "nnunet-2d",
        include_str!("../../../../stages/nnunet-2d.toml"),
    ),
    (
        "nnunet-3d_fullres",
        include_str!("../../../../stages/nnunet-3d_fullres.toml"),
    ),
    (
        "nnunet-resenc",
        include_str!("../../../../stages/nnunet-resenc.toml"),
    ),
];

impl Recipe {
    /// The recipe that `--stage` names: `1`, `2`, an embedded recipe, or a TOML file;
    /// `overrides` are `key=value` as in `training.batch_size=4`.
    ///
    /// # Errors
    /// No such recipe, invalid TOML, unknown keys, invalid values.
    pub fn named(stage: &str, overrides: &[String]) -> Result<Self> {
        let name = match stage {
            "1" => "coarse",
            "2" => "refine",
            other => other,
        };
        let (origin, text) = match EMBEDDED.iter().find(|(known, _)| *known == name) {
            Some((name, text)) => (format!("stages/{name}.toml"), (*text).to_owned()),
            None if Path::new(name).extension().is_some_and(|e| e == "toml") => {
                let path = Path::new(name);
                let text =
                    read_text_at_most(path, MAX_RECIPE_BYTES).map_err(Error::io(path, "read"))?;
                (name.to_owned(), text)
            }
            None => {
                let known: Vec<_> = EMBEDDED.iter().map(|(name, _)| *name).collect();
                return Err(Error::usage(format!(
                    "--stage {stage}: no such recipe; expected 1, 2, one of {}, or a .toml file",
                    known.join(", ")
                )));
            }
        };
        Self::parsed(&text, &origin, overrides)
    }

    /// A recipe from TOML text; `origin` names it in errors.
    pub fn parsed(text: &str, origin: &str, overrides: &[String]) -> Result<Self> {
        let mut table: toml::Table =
            toml::from_str(text).map_err(|error| Error::file(origin, one_line(&error)))?;
        let own = table.clone();
        for setting in overrides {
            apply_override(&mut table, setting)?;
        }
        if let Some(patience) = scaled_patience(&own, &table, overrides) {
            let setting = format!("training.early_stopping.patience={patience}");
            apply_override(&mut table, &setting)?;
        }
        let recipe: Self = table.clone().try_into().map_err(|error| {
            let problem = match invalid_key(&table, &error) {
                Some(key) => format!("{key}: {}", error.message().replace('\n', " ")),
                None => one_line(&error),
            };
            Error::file(origin, problem)
        })?;
        recipe.validated(origin)
    }

    /// The recipe as TOML, including defaults.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|error| Error::invalid(format!("cannot write the recipe: {error}")))
    }
}

/// Recipes have a few kilobytes.
const MAX_RECIPE_BYTES: u64 = 256 << 10;

/// Recipes have about a hundred keys.
const MAX_KEYS: usize = 1000;

/// The invalid key with its value, such as `network.widths = 3`: without it the table fails differently or not at all.
/// serde names no key for errors within a section chosen by its `kind`.
fn invalid_key(table: &toml::Table, error: &toml::de::Error) -> Option<String> {
    if error.message().starts_with("missing field") {
        return None; // the message names the key
    }
    if keys(table).len() > MAX_KEYS {
        return None; // trying each key would take too long
    }
    let fails_alike = |table: toml::Table| {
        let other: Result<Recipe, toml::de::Error> = table.try_into();
        other.is_err_and(|other| other.message() == error.message())
    };
    let key = sorted_keys(table).into_iter().find(|key| {
        let mut without = table.clone();
        removed(&mut without, key).is_some() && !fails_alike(without)
    })?;
    let value = removed(&mut table.clone(), &key)?;
    let value = value.to_string().replace('\n', " ");
    Some(format!("{} = {value}", key.join(".")))
}

/// All keys of a table and its subtables: values first (innermost first), then `kind` keys, then tables.
fn sorted_keys(table: &toml::Table) -> Vec<Vec<String>> {
    let mut all = keys(table);
    all.sort_by_cached_key(|key| {
        let is_table = removed(&mut table.clone(), key).is_some_and(|value| value.is_table());
        let is_kind = key.last().is_some_and(|last| last == "kind");
        (is_table, is_kind, std::cmp::Reverse(key.len()))
    });
    all
}

fn keys(table: &toml::Table) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for (name, value) in table {
        let inner = value.as_table().map(keys).unwrap_or_default();
        let nested = inner
            .into_iter()
            .map(|key| [vec![name.clone()], key].concat());
        all.extend(nested);
        all.push(vec![name.clone()]);
    }
    all
}

fn removed(table: &mut toml::Table, key: &[String]) -> Option<toml::Value> {
    match key {
        [] => None,
        [last] => table.remove(last),
        [first, rest @ ..] => removed(table.get_mut(first)?.as_table_mut()?, rest),
    }
}

/// Recipe keys have up to four parts.
const MAX_KEY_PARTS: usize = 16;

/// Sets one dotted key of a table; the value is parsed as TOML, or taken as a plain string if that fails.
fn apply_override(table: &mut toml::Table, setting: &str) -> Result<()> {
    let (key, text) = setting.split_once('=').ok_or_else(|| {
        Error::usage(format!(
            "--set {setting}: expected key=value, such as training.batch_size=4"
        ))
    })?;
    let value = toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let mut parts: Vec<&str> = key.trim().split('.').collect();
    if parts.len() > MAX_KEY_PARTS {
        return Err(Error::usage(format!(
            "--set: a key of {} parts; expected a key such as training.batch_size",
            parts.len()
        )));
    }
    let last = parts.pop().unwrap_or_default();
    let mut inner = table;
    for part in parts {
        inner = inner
            .entry(part)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| {
                Error::usage(format!(
                    "--set {setting}: '{part}' is a value, not a section"
                ))
            })?;
    }
    inner.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ctseg_engine::losses::{DiceSettings, LossConfig};
    use ctseg_image::preprocess::normalisation::Normalisation;

    #[test]
    fn embedded_recipes_are_complete_and_round_trip() {
        for (name, _) in EMBEDDED {
            let recipe = Recipe::named(name, &[]).unwrap();
            assert_eq!(recipe.name, name);
            assert_eq!(
                Recipe::parsed(&recipe.to_toml().unwrap(), name, &[]).unwrap(),
                recipe
            );
        }
        assert_eq!(Recipe::named("1", &[]).unwrap().stage, 1);
        assert_eq!(Recipe::named("2", &[]).unwrap().stage, 2);
    }

    #[test]
    fn normalisation_round_trips_and_is_optional() {
        let plain = Recipe::named("refine", &[]).unwrap();
        assert_eq!(plain.normalisation, Normalisation::default());
        assert!(!plain.to_toml().unwrap().contains("normalisation"));
        for set in [
            "normalisation={ kind = 'ct', mean_hu = 50, sd_hu = 120.5 }",
            "normalisation={ kind = 'z_score' }",
        ] {
            let recipe = Recipe::named("refine", &[set.to_owned()]).unwrap();
            assert_ne!(recipe.normalisation, plain.normalisation);
            let text = recipe.to_toml().unwrap();
            assert_eq!(Recipe::parsed(&text, "written", &[]).unwrap(), recipe);
        }
    }

    #[test]
    fn overrides_reach_nested_values() {
        let set = [
            "training.batch_size=3",
            "network.widths=[4, 8]",
            "training.loss=dice",
            "spacing_mm=[1,2,3.5]",
        ];
        let recipe = Recipe::named("refine2_5d", &set.map(str::to_owned)).unwrap();
        assert_eq!(recipe.training.batch_size, 3);
        assert_eq!(
            recipe.training.loss,
            LossConfig::Dice(DiceSettings::default())
        );
        assert_eq!(recipe.spacing_mm, [1.0, 2.0, 3.5]);
        assert_eq!(recipe.network.multiple(), [1, 2, 2]);
    }

    #[test]
    fn augmentation_is_off_without_its_section() {
        let of = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
            Recipe::named("1", &set).unwrap().training
        };
        let degrees = "training.augmentation.rotation_degrees=10";
        assert_eq!(of(&[]).augmentation(), None);
        let on = of(&[degrees]);
        assert_eq!(on.augmentation().unwrap().rotation_degrees, 10.0);
        assert_eq!(on.augmentation().unwrap().scale, [0.7, 1.4]);
        let off = of(&[degrees, "training.augmentation.enabled=false"]);
        assert_eq!(off.augmentation(), None);
    }

    /// Fails unless each setting is refused in one line with this text.
    pub fn refused(settings: &[(&str, &str)]) {
        for (setting, expected) in settings {
            let error = Recipe::named("1", &[(*setting).to_owned()]).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains(expected) && !error.contains('\n'),
                "{setting}: {error}"
            );
        }
    }

    #[test]
    fn invalid_settings_give_one_line() {
        refused(&[
            ("training.bach_size=3", "bach_size"),
            ("folds=0", "folds"),
            ("network.kind=resnet", "resnet"),
            ("windows_hu=[[5, 5]]", "windows_hu"),
            ("normalisation={kind='ct', mean_hu=50}", "sd_hu"),
            ("normalisation={kind='ct', mean_hu=50, sd_hu=-1}", "sd_hu"),
            ("normalisation={kind='ct', mean_hu=400, sd_hu=9}", "mean_hu"),
            ("normalisation={kind='window', mean_hu=40}", "mean_hu"),
            ("normalisation={kind='rank'}", "rank"),
            ("training.patches_per_epoch=0", "patches_per_epoch"),
            (
                "training.augmentation.rotation_degrees=200",
                "rotation_degrees",
            ),
            ("training.augmentation.rotations=3", "rotations"),
            ("training.augmentation.hu_shift=[9, -9]", "hu_shift"),
            ("training.augmentation.metal_points=[0, 1]", "metal_points"),
            ("training.slice_sampling=some", "every"),
            ("training.curriculum.epochs=0", "curriculum"),
            ("training.curriculum={ epochs = 3, easiest = 0 }", "easiest"),
            ("training.curriculum.easiest=0.5", "epochs"),
            ("training.curriculum={ epochs = 3, hardest = 1 }", "hardest"),
            ("training.augmentation.flip_axes=['z']", "z"),
            ("name.inner=3", "name"),
            ("nonsense", "key=value"),
        ]);
        let error = Recipe::named("3", &[]).unwrap_err().to_string();
        assert!(error.contains("coarse"), "{error}");
    }

    #[test]
    fn an_invalid_value_names_its_key() {
        refused(&[
            (
                "network.widths=3",
                "network.widths = 3: invalid type: integer",
            ),
            (
                "network.widths=['a', 'b']",
                "network.widths = [\"a\", \"b\"]: ",
            ),
            (
                "network.kind=resnet",
                "network.kind = \"resnet\": unknown variant",
            ),
            ("network.depth=3", "network.depth = 3: unknown field"),
            ("folds=-1", "folds = -1: "),
            ("spacing_mm=[1, 2]", "spacing_mm = [1, 2]: invalid length 2"),
            ("training.batch_size=big", "training.batch_size = \"big\": "),
            (
                "training.loss={kind='dice', smoth=1}",
                "training.loss.smoth = 1: ",
            ),
            (
                "training.optimiser.kind=adamax",
                "training.optimiser.kind = \"adamax\"",
            ),
            (
                "training.augmentation.scale=2",
                "training.augmentation.scale = 2: ",
            ),
            ("roi.margin_mm=5", "roi.margin_mm = 5: "),
        ]);
    }

    #[test]
    fn invalid_losses_give_one_line() {
        refused(&[
            ("training.loss=vocal", "vocal"),
            ("training.loss={kind='vocal'}", "vocal"),
            ("training.loss={kind='dice', smoth=1}", "smoth"),
            ("training.loss={smooth=1}", "kind"),
            ("training.loss={kind='dice', smooth=0}", "smooth"),
            ("training.loss={kind='focal', alpha=2}", "alpha"),
            ("training.loss={kind='focal', beta=2}", "beta"),
            ("training.loss={kind='topk', share=0}", "share"),
            ("training.loss={kind='tversky', alpha=0, beta=0}", "alpha"),
            ("training.loss={kind='boundary', region='topk'}", "topk"),
            (
                "training.loss={kind='boundary', region='ce_dice'}",
                "exclusive",
            ),
            ("training.loss=ce_dice", "exclusive"),
            ("outputs=exclusive", "ce_dice"),
            ("outputs=both", "both"),
            ("training.class_weights={a=-1}", "class_weights"),
            ("training.loss=3", "loss"),
        ]);
    }
}
