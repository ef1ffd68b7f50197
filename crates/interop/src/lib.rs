//! TODO

pub mod convert;
pub mod nnunet;
pub mod safetensors;
pub mod totalsegmentator;
