//! Compares the surfaces of a predicted and a reference label map, structure by structure:
//!
//! ```sh
//! cargo run --release -p ctseg-image --example surface_metrics -- prediction.nii.gz reference.nii.gz
//! ```

use std::collections::BTreeSet;
use std::path::Path;
use std::process::exit;

use ctseg_base::{Error, Result};
use ctseg_image::metrics::surface::SurfaceDistances;
use ctseg_image::space::LabelMap;

/// The surface distances of every label of the reference, ascending. Both maps must be on one grid.
pub fn surface_distances(
    prediction: &Path,
    reference: &Path,
) -> Result<Vec<(u16, SurfaceDistances)>> {
    let predicted = LabelMap::open(prediction)?;
    let reference = LabelMap::open(reference)?;
    if !predicted.grid.same_as(&reference.grid, 0.01) {
        return Err(Error::file(
            prediction,
            "is on another grid than the reference",
        ));
    }
    let labels: BTreeSet<u16> = reference.data.iter().copied().collect();
    let spacing_mm = reference.grid.spacing_mm();
    let compare = |label: u16| {
        let masks = [&predicted, &reference].map(|map| map.mask(label));
        let distances = SurfaceDistances::between(masks[0].view(), masks[1].view(), spacing_mm);
        (label, distances)
    };
    Ok(labels
        .into_iter()
        .filter(|label| *label > 0)
        .map(compare)
        .collect())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [prediction, reference] = arguments.as_slice() else {
        eprintln!("usage: surface_metrics PREDICTION REFERENCE");
        exit(2);
    };
    let shown = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
    println!("label  surface Dice (2 mm)  HD95 mm  ASSD mm");
    for (label, found) in surface_distances(Path::new(prediction), Path::new(reference))? {
        let dice = shown(found.surface_dice(2.0));
        let hd95 = shown(found.robust_hausdorff_mm(95.0));
        println!(
            "{label:>5}  {dice:>19}  {hd95:>7}  {:>7}",
            shown(found.average_mm())
        );
    }
    Ok(())
}
