//! Medical image volumes: grids, file formats, resampling, label operations, metrics, statistics. Independent of any
//! network.
//!
//! Arrays have shape (z, y, x), the order of a NIfTI file; shapes and spacings of a [`Grid`](space::Grid) are in
//! (x, y, z). World coordinates are RAS+ in mm, as in nibabel.
//!
//! ```
//! use ctseg_image::metrics::surface::SurfaceDistances;
//! use ctseg_image::resample::{Interpolation, resample};
//! use ctseg_image::space::{LabelMap, Volume};
//!
//! # fn main() -> ctseg_base::Result<()> {
//! let ct = Volume::open("../../tests/data/example_ct_sm.nii.gz")?;
//! assert_eq!(ct.grid.shape, [122, 101, 30]);
//! assert_eq!(ct.data.dim(), (30, 101, 122));
//!
//! // The same field of view in slices of 5 instead of 3 mm.
//! let thick = resample(&ct, &ct.grid.respaced([3.0, 3.0, 5.0]), Interpolation::Linear)?;
//! assert_eq!(thick.grid.shape, [122, 101, 18]);
//!
//! // Structure 1 of a predicted label map against the reference.
//! let predicted = LabelMap::open("../../tests/data/compat/out/case_4.nii.gz")?;
//! let reference = LabelMap::open("../../tests/data/compat/data/labels/case_4.nii.gz")?;
//! let spacing_mm = reference.grid.spacing_mm();
//! let distances = SurfaceDistances::between(
//!     predicted.mask(1).view(),
//!     reference.mask(1).view(),
//!     spacing_mm,
//! );
//! assert!(distances.robust_hausdorff_mm(95.0) <= distances.hausdorff_mm());
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]
#![deny(unsafe_code)] // not `forbid`, which would reject the `allow` in ndarray's `s!`

mod connectivity;
pub mod formats;
pub mod labels;
pub mod metrics;
pub mod nifti;
pub mod preprocess;
pub mod resample;
pub mod space;
pub mod statistics;
mod window;
