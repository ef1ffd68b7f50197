//! `ctseg inspect` of a PyTorch checkpoint: its layers and settings.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::layer_table;
use crate::cli::print::Description;
use ctseg_base::text::printable::Shown;
use ctseg_base::{Error, Result};
use ctseg_engine::torch_checkpoint::{Node, TorchFile, Value as Held};

/// Keys under which programs store weights; without them the whole file is a state dictionary.
const WEIGHTS: [&str; 4] = ["network_weights", "state_dict", "model_state_dict", "model"];

/// Long entries of no interest here.
const LEFT_OUT: [&str; 3] = ["optimizer_state", "grad_scaler_state", "logging"];

/// Longer settings are truncated in the text, not in JSON.
const LONGEST: usize = 160;

/// The checkpoint. Only names and shapes of the weights are read.
pub fn described(path: &Path) -> Result<Description> {
    let file = TorchFile::open(path)?;
    let stored = file.tensors(weights_of(file.root()), |_| true)?;
    if stored.is_empty() {
        return Err(Error::file(
            path,
            "contains no named weights; expected an nnU-Net checkpoint or a state dictionary",
        ));
    }
    let settings = settings_of(&file)?;
    let layers: Vec<(&str, &[usize])> = stored
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
        .collect();
    let mut described = layer_table(&layers);
    for (name, setting) in &settings {
        let mut shown: String = setting.to_string().chars().take(LONGEST).collect();
        if shown.chars().count() == LONGEST {
            shown.push('…');
        }
        described.text += &format!("  {}: {}\n", name.shown(), shown.shown());
    }
    described.json["kind"] = json!("torch");
    described.json["settings"] = Value::Object(settings);
    Ok(described)
}

fn weights_of(root: Node<'_>) -> Node<'_> {
    let named = WEIGHTS.iter().find_map(|name| root.get(name));
    named
        .filter(|found| found.entries().next().is_some())
        .unwrap_or(root)
}

/// Everything except weights.
fn settings_of(file: &TorchFile) -> Result<Map<String, Value>> {
    let mut settings = Map::new();
    for (name, value) in file.root().entries() {
        // Skip names that are not text, or too long for a setting.
        let Some(name) = name.text().filter(|name| name.len() <= LONGEST) else {
            continue;
        };
        let is_left_out = WEIGHTS.iter().chain(&LEFT_OUT).any(|known| *known == name);
        if !is_left_out && !matches!(value.value(), Held::Tensor(_)) {
            settings.insert(name.to_owned(), file.json(value)?);
        }
    }
    Ok(settings)
}
