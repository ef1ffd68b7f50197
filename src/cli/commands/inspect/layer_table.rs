//! The layers of a network's weights as a table.

use serde_json::{Value, json};

use ctseg_base::text::table::table;
use ctseg_engine::weights::{NamedTensors, is_trained};

pub(crate) fn layer_table(tensors: &NamedTensors) -> (String, Value) {
    let size = |shape: &[usize]| shape.iter().product::<usize>();
    let rows: Vec<Vec<String>> = tensors
        .iter()
        .map(|(name, tensor)| {
            let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
            vec![
                name.clone(),
                shape.join(" × "),
                size(&tensor.shape).to_string(),
            ]
        })
        .collect();
    let trained: usize = tensors
        .iter()
        .filter(|(name, _)| is_trained(name))
        .map(|(_, tensor)| size(&tensor.shape))
        .sum();
    let text = table(&["layer", "shape", "parameters"], &rows)
        + &format!("{trained} trained parameters\n");
    let layers: Vec<Value> = tensors
        .iter()
        .map(|(name, tensor)| json!({"name": name, "shape": tensor.shape}))
        .collect();
    (
        text,
        json!({"trained_parameters": trained, "layers": layers}),
    )
}
