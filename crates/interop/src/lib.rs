//! Interoperability: nnU-Net, TotalSegmentator, the Medical Segmentation Decathlon, safetensors.

#![forbid(unsafe_code)]

pub mod convert;
pub mod nnunet;
pub mod safetensors;
pub mod totalsegmentator;
