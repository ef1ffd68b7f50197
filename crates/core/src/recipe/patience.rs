//! Early stopping of a recipe whose epochs or schedule are set otherwise.

use super::TrainingConfig;

/// How long early stopping waits where a recipe does not say it as it is now: as much longer as the recipe's `own`
/// epochs have become more, so that one that never stops early never does; and never where the rate follows a schedule
/// over all epochs for which nobody has set a patience. None where the recipe's stands.
pub(super) fn scaled_patience(
    own: &toml::Table,
    now: &toml::Table,
    overrides: &[String],
) -> Option<i64> {
    let mut keys = overrides.iter().map(|setting| setting.trim_start());
    if keys.any(|key| key.starts_with("training.early_stopping")) {
        return None;
    }
    let usual = TrainingConfig::default().epochs as i64;
    let training = |table: &toml::Table, key: &str| table.get("training")?.get(key).cloned();
    let epochs = |table| training(table, "epochs").map_or(Some(usual), |value| value.as_integer());
    let follows = |table| {
        let schedule = training(table, "schedule");
        schedule.is_some_and(|schedule| schedule.as_str() != Some("plateau"))
    };
    let patience =
        training(own, "early_stopping").and_then(|stopping| stopping.get("patience")?.as_integer());
    let (before, after) = (epochs(own)?, epochs(now)?);
    match patience {
        _ if follows(now) && !follows(own) => Some(after),
        None => follows(now).then_some(after),
        Some(patience) if before > 0 && after > before => patience
            .checked_mul(after)?
            .checked_add(before - 1)
            .map(|sum| sum / before),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::recipe::Recipe;

    #[test]
    fn early_stopping_waits_as_much_longer_as_there_are_more_epochs() {
        let patience = |stage: &str, set: &[&str]| {
            let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
            Recipe::named(stage, &set)
                .unwrap()
                .training
                .early_stopping
                .patience
        };
        // "Never" stays so: 8 of 8 epochs, 60 of 60.
        assert_eq!(patience("single", &["training.epochs=40"]), 40);
        assert_eq!(patience("refine", &["training.epochs=75"]), 75);
        assert_eq!(patience("coarse", &["training.epochs=400"]), 120);
        assert_eq!(patience("coarse", &["training.epochs=41"]), 13);
        assert_eq!(patience("coarse", &["training.epochs=4"]), 12);
        assert_eq!(patience("coarse", &[]), 12);
        let said = ["training.epochs=400", "training.early_stopping.patience=7"];
        assert_eq!(patience("coarse", &said), 7);
        // A rate that falls over all epochs is not cut short, unless a recipe wants it.
        let cosine = ["training.epochs=90", "training.schedule=cosine"];
        assert_eq!(patience("coarse", &cosine), 90);
        let text = Recipe::named("coarse", &[]).unwrap().to_toml().unwrap();
        let own = |from: &str, to: &str| {
            let recipe = Recipe::parsed(&text.replace(from, to), "own", &[]).unwrap();
            recipe.training.early_stopping.patience
        };
        assert_eq!(own("schedule = \"plateau\"", "schedule = \"poly\""), 12);
        let section = "[training.early_stopping]\npatience = 12\n";
        assert!(text.contains(section), "{text}");
        let poly = Recipe::parsed(
            &text
                .replace(section, "[training.early_stopping]\n")
                .replace("schedule = \"plateau\"", "schedule = \"poly\""),
            "own",
            &[],
        );
        assert_eq!(poly.unwrap().training.early_stopping.patience, 40);
    }
}
