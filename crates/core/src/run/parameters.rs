//! Recipe settings as tracker parameters: one string per value, with dotted names.

use super::metric_names::sanitised;
use crate::recipe::{Recipe, one_line};
use ctseg_base::{Error, Result};

/// All values of `recipe` by name, such as `training.optimiser.learning_rate`. Lists are JSON.
pub fn of_recipe(recipe: &Recipe) -> Result<Vec<(String, String)>> {
    let text = recipe.to_toml()?;
    // Via text, where an f32 of 0.1 stays 0.1 instead of 0.10000000149.
    let table: toml::Table =
        toml::from_str(&text).map_err(|error| Error::internal(one_line(&error)))?;
    let mut parameters = Vec::new();
    add(&mut parameters, "", &table);
    Ok(parameters)
}

fn add(parameters: &mut Vec<(String, String)>, prefix: &str, table: &toml::Table) {
    for (key, value) in table {
        let name = format!("{prefix}{}", sanitised(key));
        let text = match value {
            toml::Value::Table(inner) => {
                add(parameters, &format!("{name}."), inner);
                continue;
            }
            toml::Value::String(text) => text.clone(),
            other => serde_json::to_string(other).unwrap_or_else(|_| other.to_string()),
        };
        parameters.push((name, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_flattened() {
        let set = [
            "training.augmentation.rotation_degrees=10",
            "training.optimiser.weight_decay=0.00001",
            "training.class_weights={ 'vena cava/portal' = 2.0 }",
            "training.patch_size=[64, 96]",
            "roi.threshold=0.1",
        ];
        let recipe = Recipe::named("demo-coarse", &set.map(str::to_owned)).unwrap();
        let found = of_recipe(&recipe).unwrap();
        let of = |name: &str| {
            let mut values = found.iter().filter(|(own, _)| own == name);
            let value = values.next().map(|(_, value)| value.as_str());
            assert!(values.next().is_none(), "{name}");
            value
        };
        assert_eq!(of("name"), Some("demo-coarse"));
        assert_eq!(of("stage"), Some("1"));
        assert_eq!(of("spacing_mm"), Some("[9.0,9.0,9.0]"));
        assert_eq!(of("network.widths"), Some("[8,16,32]"));
        assert_eq!(of("training.loss"), Some("bce_dice"));
        assert_eq!(of("training.patch_size"), Some("[64,96]"));
        assert_eq!(of("training.optimiser.weight_decay"), Some("0.00001"));
        assert_eq!(of("training.augmentation.rotation_degrees"), Some("10.0"));
        assert_eq!(of("training.class_weights.vena cava_portal"), Some("2.0"));
        assert_eq!(of("roi.threshold"), Some("0.1"));
        assert_eq!(of("prior"), Some("false"));
        assert_eq!(of("training"), None);
    }
}
