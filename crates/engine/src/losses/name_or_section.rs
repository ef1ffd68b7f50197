//! Serde format of a loss: only its name if all settings have their defaults (`loss = "bce_dice"`), otherwise a section
//! (`[training.loss]` with `kind = "…"`).

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::registry::LossConfig;

/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(config: &LossConfig, to: S) -> Result<S::Ok, S::Error> {
    let name = config.recipe_name();
    match LossConfig::named::<de::value::Error>(name) {
        Ok(plain) if plain == *config => to.serialize_str(name),
        _ => config.serialize(to),
    }
}

/// # Errors
/// Unknown names and keys, a section without `kind`.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<LossConfig, D::Error> {
    from.deserialize_any(NameOrSection)
}

struct NameOrSection;

impl<'de> Visitor<'de> for NameOrSection {
    type Value = LossConfig;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the name of a loss, or a section with kind = \"…\" and settings")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<LossConfig, E> {
        LossConfig::named(name)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<LossConfig, A::Error> {
        LossConfig::deserialize(MapAccessDeserializer::new(map))
    }
}
