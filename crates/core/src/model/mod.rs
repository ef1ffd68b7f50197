//! Trained models on disk: bundles, multi-part models, ensembles.

pub mod bundle;
pub mod check;
pub(crate) mod common;
pub(crate) mod folder;
pub mod identity;
pub mod known_cases;
pub mod manifest;
pub mod multi_part;
pub(crate) mod multi_part_manifest;
pub mod postprocessing;
pub mod pretrained;
