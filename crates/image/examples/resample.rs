//! Opens a volume, resamples it to cubic voxels and saves it:
//!
//! ```sh
//! cargo run --release -p ctseg-image --example resample -- ct.nii.gz 1.5 ct_1.5mm.nii.gz
//! ```

use std::path::Path;
use std::process::exit;

use ctseg_base::Result;
use ctseg_image::formats::VoxelType;
use ctseg_image::resample::{Interpolation, resample};
use ctseg_image::space::{Grid, Volume};

/// Writes `input` with voxels of `spacing_mm` along every axis to `output`, interpolated linearly. Returns the grid
/// before and after.
pub fn to_spacing(input: &Path, spacing_mm: f64, output: &Path) -> Result<[Grid; 2]> {
    let volume = Volume::open(input)?;
    let grid = volume.grid.respaced([spacing_mm; 3]);
    resample(&volume, &grid, Interpolation::Linear)?.save(output, VoxelType::F32)?;
    Ok([volume.grid, grid])
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = match arguments.as_slice() {
        [input, spacing_mm, output] => spacing_mm.parse().ok().map(|mm| (input, mm, output)),
        _ => None,
    };
    let Some((input, spacing_mm, output)) = given else {
        eprintln!("usage: resample VOLUME SPACING_MM OUTPUT");
        exit(2);
    };
    for grid in to_spacing(Path::new(input), spacing_mm, Path::new(output))? {
        let ([x, y, z], [dx, dy, dz]) = (grid.shape, grid.spacing_mm());
        println!("{x} × {y} × {z} voxels of {dx:.2} × {dy:.2} × {dz:.2} mm");
    }
    Ok(())
}
