//! The layer table of a network.

use serde_json::{Value, json};

use super::Recipe;
use ctseg_base::text::table::table;
use ctseg_engine::networks::cost::Cost;
use ctseg_engine::precision::Precision;
use ctseg_image::preprocess::channels::padded_size;

const MIB: f64 = 1_048_576.0;

/// Input shape of the recipe's network in training: (batch, channel, z, y, x).
pub fn input_of(recipe: &Recipe) -> [usize; 5] {
    let network = &recipe.network;
    let (sides, multiple) = (recipe.training.patch_size.zyx(), network.multiple());
    let [z, y, x] = [0, 1, 2].map(|axis| padded_size(sides[axis], multiple[axis]));
    let depth = match network.dimensions() {
        2 => 2 * network.neighbours() + 1,
        _ => z,
    };
    [recipe.training.batch_size, recipe.channels(), depth, y, x]
}

/// Peak memory of a training step, by precision.
pub fn training_bytes(cost: &Cost, batch: usize) -> Value {
    json!({
        "f32": cost.training_bytes(batch, Precision::F32),
        "bf16": cost.training_bytes(batch, Precision::Bf16),
    })
}

/// One row per layer, and the totals.
pub fn as_text(cost: &Cost, batch: usize) -> String {
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / MIB);
    let millions = |count: u64| format!("{:.1}", count as f64 / 1e6);
    let mut rows: Vec<Vec<String>> = cost
        .layers
        .iter()
        .map(|layer| {
            let sides: Vec<String> = layer.output.iter().map(usize::to_string).collect();
            vec![
                layer.name.clone(),
                sides.join(" × "),
                layer.parameters.to_string(),
                millions(layer.multiply_adds),
                mib(layer.activation_bytes.f32),
                mib(layer.activation_bytes.bf16),
            ]
        })
        .collect();
    rows.push(vec![
        "total".to_owned(),
        String::new(),
        cost.parameters.to_string(),
        millions(cost.multiply_adds),
        mib(cost.activation_bytes.f32),
        mib(cost.activation_bytes.bf16),
    ]);
    let header = [
        "layer",
        "output",
        "parameters",
        "M multiply-adds",
        "activations f32 MiB",
        "activations bf16 MiB",
    ];
    table(&header, &rows)
        + &format!(
            "{} trainable parameters; {:.2} G multiply-adds per sample (forward pass of a training patch)\na training step with batch size {batch} takes about {} MiB in f32, {} MiB in bf16\n",
            cost.parameters,
            cost.multiply_adds as f64 / 1e9,
            mib(cost.training_bytes(batch, Precision::F32)),
            mib(cost.training_bytes(batch, Precision::Bf16)),
        )
}
