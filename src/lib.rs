//! Segmentation of CT volumes: the `ctseg` command, and the same steps as a library.
//!
//! ```
//! use ctseg::{DeviceChoice, Interpolation, LabelMap, SurfaceDistances, Volume};
//!
//! # fn main() -> ctseg::Result<()> {
//! // A volume is an array (z, y, x) on a grid.
//! let ct = Volume::open("tests/data/compat/data/images/case_4.nii.gz")?;
//! assert_eq!(ct.grid.shape, [26, 24, 20]);
//!
//! // Segment it. Load the model once for any number of volumes.
//! let model = ctseg::load_model("tests/data/compat/model", DeviceChoice::Auto)?;
//! let labels = ctseg::predict(&model, &ct)?;
//! assert_eq!(labels.grid, ct.grid);
//!
//! // Compare label 1 with the reference.
//! let reference = LabelMap::open("tests/data/compat/data/labels/case_4.nii.gz")?;
//! let [predicted, reference] = [&labels, &reference].map(|map| map.mask(1));
//! let spacing_mm = ct.grid.spacing_mm();
//! let surfaces = SurfaceDistances::between(predicted.view(), reference.view(), spacing_mm);
//! println!("HD95 in mm: {:?}", surfaces.robust_hausdorff_mm(95.0));
//!
//! // Resample to cubic voxels of 4 mm.
//! let fine = ctseg::resample(&ct, &ct.grid.respaced([4.0; 3]), Interpolation::Linear)?;
//! assert_eq!(fine.grid.shape, [39, 36, 30]);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` and `crates/image/examples/` have small programs. Everything else is in the crates below this one, lowest
//! first: `base` – `image` – `augment`, `phantom`, `engine` – `core` – `predict`, `evaluate`, `interop` – `http`,
//! `tracking` – `train` – `report`.

#![forbid(unsafe_code)]

pub mod cli;
pub mod doctor;
mod log;
pub mod slurm;
pub mod status;

pub use ctseg_base::{Error, Result};
pub use ctseg_core::inference::predictor::Predictor;
pub use ctseg_engine::device::DeviceChoice;
pub use ctseg_image::formats::VoxelType;
pub use ctseg_image::metrics::overlap::{Overlap, overlaps};
pub use ctseg_image::metrics::surface::SurfaceDistances;
pub use ctseg_image::resample::{Interpolation, LabelInterpolation, resample, resample_labels};
pub use ctseg_image::space::{Grid, LabelMap, Volume};

use std::path::Path;

use ctseg_base::limits::threads;
use ctseg_core::inference::load_options::LoadOptions;
use ctseg_core::inference::threshold::Thresholds;
use ctseg_core::model::multi_part::Models;
use ctseg_engine::device::Compute;
use ctseg_engine::precision::PrecisionChoice;

/// Loads a model folder: trained by `ctseg fit`, or imported from nnU-Net or TotalSegmentator. Test-time augmentation and
/// postprocessing are those of the model.
///
/// # Errors
/// A missing or damaged model, or a device that this build or machine does not have.
pub fn load_model(folder: impl AsRef<Path>, device: DeviceChoice) -> Result<Predictor> {
    let mut models = Models::open(&[folder.as_ref().to_path_buf()])?;
    models.choose(None)?;
    let compute = Compute::open(device, PrecisionChoice::Auto, threads::resolve(None)?)?;
    let options = LoadOptions {
        compute: &compute,
        tta: None,
        postprocess: true,
        thresholds: &Thresholds::default(),
        limit: None,
    };
    Predictor::load(&models, &options)
}

/// Segments a volume of Hounsfield units; the label map is on exactly its grid. [`Predictor::segment`] also reports
/// progress, the region of interest and fallbacks.
///
/// # Errors
/// A volume that the networks cannot take, such as one of a billion voxels at their spacing.
pub fn predict(model: &Predictor, volume: &Volume) -> Result<LabelMap> {
    let (labels, _report) = model.segment(volume, &|_, _| Ok(()))?;
    Ok(labels)
}
