//! Adapts early stopping to overridden epochs or schedule.

use super::TrainingConfig;

/// The early-stopping patience after overrides; none if the recipe's stays. More epochs scale it in proportion, so that
/// a recipe that never stops early still does not. An overridden schedule over all epochs disables early stopping,
/// unless a patience was set for it.
pub(super) fn scaled_patience(
    own: &toml::Table,
    now: &toml::Table,
    overrides: &[String],
) -> Option<i64> {
    let mut keys = overrides.iter().map(|setting| setting.trim_start());
    if keys.any(|key| key.starts_with("training.early_stopping")) {
        return None;
    }
    let default = TrainingConfig::default().epochs as i64;
    let training = |table: &toml::Table, key: &str| table.get("training")?.get(key).cloned();
    let epochs =
        |table| training(table, "epochs").map_or(Some(default), |value| value.as_integer());
    let spans_all_epochs = |table| {
        let schedule = training(table, "schedule");
        schedule.is_some_and(|schedule| schedule.as_str() != Some("plateau"))
    };
    let patience =
        training(own, "early_stopping").and_then(|stopping| stopping.get("patience")?.as_integer());
    let (before, after) = (epochs(own)?, epochs(now)?);
    match patience {
        _ if spans_all_epochs(now) && !spans_all_epochs(own) => Some(after),
        None => spans_all_epochs(now).then_some(after),
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
    fn patience_scales_with_the_epochs() {
        let patience = |stage: &str, set: &[&str]| {
            let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
            Recipe::named(stage, &set)
                .unwrap()
                .training
                .early_stopping
                .patience
        };
        // Recipes that never stop early (8 of 8 epochs, 60 of 60) still do not.
        assert_eq!(patience("single", &["training.epochs=40"]), 40);
        assert_eq!(patience("refine", &["training.epochs=75"]), 75);
        assert_eq!(patience("coarse", &["training.epochs=400"]), 120);
        assert_eq!(patience("coarse", &["training.epochs=41"]), 13);
        assert_eq!(patience("coarse", &["training.epochs=4"]), 12);
        assert_eq!(patience("coarse", &[]), 12);
        let explicit = ["training.epochs=400", "training.early_stopping.patience=7"];
        assert_eq!(patience("coarse", &explicit), 7);
        // A schedule over all epochs is not stopped early, unless the recipe sets a patience.
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
