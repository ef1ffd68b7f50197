//! Tests of the crate `ctseg-augment` against golden values and real files.

mod augmentation;
mod augmentation_elastic;
mod augmentation_golden;
mod augmentation_volume;
