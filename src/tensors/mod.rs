//! Everything that computes on tensors: devices, networks, losses, optimisers, weights. This layer and
//! `pipeline` are the only ones that know Burn; it knows nothing of files with images, grids or cases.

pub mod device;
pub mod losses;
pub mod networks;
pub mod optimiser;
pub mod weights;
