//! Tests of `ctseg-image` against golden values and real files.

#[path = "../../../../tests/golden/nifti/mod.rs"]
mod golden;

mod distance_golden;
mod examples;
mod metrics_golden;
mod nifti_headers;
mod nifti_label_names;
mod nifti_labels;
mod nifti_padding;
mod nifti_reading;
mod paired_golden;
mod postprocess_golden;
mod real_files;
mod resample_golden;
mod surface_golden;
mod totalseg_statistics;
