//! Segments a volume with a trained or imported model:
//!
//! ```sh
//! cargo run --release --example segment -- ct.nii.gz MODEL labels.nii.gz
//! ```

use std::path::Path;
use std::process::exit;

use ctseg::{DeviceChoice, LabelMap, Result, Volume};

/// Writes the label map of `input` to `output`, and returns it.
pub fn segment(input: &Path, model: &Path, output: &Path) -> Result<LabelMap> {
    let volume = Volume::open(input)?;
    let model = ctseg::load_model(model, DeviceChoice::Auto)?;
    let labels = ctseg::predict(&model, &volume)?;
    labels.save(output)?;
    Ok(labels)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, model, output] = arguments.as_slice() else {
        eprintln!("usage: segment VOLUME MODEL OUTPUT");
        exit(2);
    };
    let labels = segment(Path::new(input), Path::new(model), Path::new(output))?;
    let voxels = labels.data.iter().filter(|label| **label > 0).count();
    let volume_ml = voxels as f64 * labels.grid.voxel_volume_ml();
    println!("{volume_ml:.1} mL of structures in {output}");
    Ok(())
}
