//! TODO

pub mod channels;
pub mod normalisation;
pub mod random_normal;
pub mod sliding_window;
