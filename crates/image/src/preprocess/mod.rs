//! From HU to network input: windows, normalisation, sliding-window positions.

pub mod channels;
pub mod normalisation;
pub mod random_normal;
pub mod rescale_hu;
pub mod sliding_window;
