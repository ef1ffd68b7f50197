//! The layers of a network's weights as a table.

use serde_json::{Value, json};

use crate::cli::print::Description;
use ctseg_base::text::table::table;
use ctseg_engine::weights::is_trained;

/// Name and weight shape of each layer.
pub(crate) fn layer_table(layers: &[(&str, &[usize])]) -> Description {
    let size = |shape: &[usize]| shape.iter().product::<usize>();
    let rows: Vec<Vec<String>> = layers
        .iter()
        .map(|(name, sides)| {
            let shape: Vec<String> = sides.iter().map(usize::to_string).collect();
            vec![
                (*name).to_owned(),
                shape.join(" × "),
                size(sides).to_string(),
            ]
        })
        .collect();
    let trained: usize = layers
        .iter()
        .filter(|(name, _)| is_trained(name))
        .map(|(_, shape)| size(shape))
        .sum();
    let text = table(&["layer", "shape", "parameters"], &rows)
        + &format!("{trained} trainable parameters\n");
    let layers: Vec<Value> = layers
        .iter()
        .map(|(name, shape)| json!({"name": name, "shape": shape}))
        .collect();
    Description {
        text,
        json: json!({"trained_parameters": trained, "layers": layers}),
    }
}
