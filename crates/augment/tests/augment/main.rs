//! Tests of `ctseg-augment` against golden values.

mod augmentation;
mod augmentation_elastic;
mod augmentation_golden;
mod augmentation_volume;
