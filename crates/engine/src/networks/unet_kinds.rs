//! The kinds of U-Nets: plain or with a residual encoder, on slices, on slices with their neighbours, and on volumes.

use burn::tensor::Device;

use super::kind::{Named, NetworkKind};
use super::plan::Plan;
use super::unet::{Unet, UnetModule};
use super::unet_config::UnetConfig;
use ctseg_base::{Error, Result};

pub struct Unet2d;

/// On slices with neighbouring slices as additional channels.
pub struct Unet25d;

pub struct Unet3d;

/// With a residual encoder, see `resenc`.
pub struct ResEnc2d;

/// With a residual encoder, see `resenc`.
pub struct ResEnc3d;

/// What distinguishes the kinds.
pub trait UnetKind: Named {
    type Module: UnetModule;

    const RESIDUAL: bool = false;

    /// `None` for a kind without neighbouring slices.
    const NEIGHBOURS: Option<Neighbours> = None;
}

/// Neighbouring slices on each side.
pub struct Neighbours {
    default: usize,
    min: usize,
    /// The kinds for fewer or more.
    others: &'static str,
}

/// Maximum neighbours; a network on volumes is better for more.
const MAX_NEIGHBOURS: usize = 16;

impl UnetKind for Unet2d {
    type Module = Unet<4>;
}

impl UnetKind for Unet25d {
    type Module = Unet<4>;
    const NEIGHBOURS: Option<Neighbours> = Some(Neighbours {
        default: 2,
        min: 1,
        others: "none: unet2d, more: unet3d",
    });
}

impl UnetKind for Unet3d {
    type Module = Unet<5>;
}

impl UnetKind for ResEnc2d {
    type Module = Unet<4>;
    const RESIDUAL: bool = true;
    const NEIGHBOURS: Option<Neighbours> = Some(Neighbours {
        default: 0,
        min: 0,
        others: "more: resenc3d",
    });
}

impl UnetKind for ResEnc3d {
    type Module = Unet<5>;
    const RESIDUAL: bool = true;
}

impl<K: UnetKind> NetworkKind for K {
    type Settings = UnetConfig;
    type Module = K::Module;

    const DIMENSIONS: usize = K::Module::DIMENSIONS;

    fn init(
        settings: &UnetConfig,
        channels: usize,
        structures: usize,
        device: &Device,
    ) -> Result<K::Module> {
        let plan = plan::<K>(settings)?;
        Ok(K::Module::of_plan(&plan, channels, structures, device))
    }

    fn parameters(settings: &UnetConfig, channels: u64, structures: u64) -> Result<u64> {
        Ok(plan::<K>(settings)?.parameters(channels, structures))
    }

    fn written_out(settings: &UnetConfig) -> Result<UnetConfig> {
        check_neighbours::<K>(settings)?;
        let neighbours = (Self::DIMENSIONS == 2).then(|| Self::neighbours(settings));
        Ok(UnetConfig {
            neighbours,
            ..settings.written_out(Self::DIMENSIONS, K::RESIDUAL)?
        })
    }

    fn multiple(settings: &UnetConfig) -> [usize; 3] {
        settings.multiple(Self::DIMENSIONS)
    }

    fn neighbours(settings: &UnetConfig) -> usize {
        K::NEIGHBOURS.map_or(0, |range| settings.neighbours.unwrap_or(range.default))
    }

    fn unet(settings: &UnetConfig) -> Option<&UnetConfig> {
        Some(settings)
    }
}

fn plan<K: UnetKind>(settings: &UnetConfig) -> Result<Plan> {
    check_neighbours::<K>(settings)?;
    settings.plan(K::Module::DIMENSIONS, K::RESIDUAL)
}

fn check_neighbours<K: UnetKind>(settings: &UnetConfig) -> Result<()> {
    let given = settings.neighbours;
    match K::NEIGHBOURS {
        Some(Neighbours {
            default,
            min,
            others,
        }) => {
            let neighbours = given.unwrap_or(default);
            if (min..=MAX_NEIGHBOURS).contains(&neighbours) {
                return Ok(());
            }
            Err(Error::invalid(format!(
                "network.neighbours = {neighbours} is invalid; expected {min} to {MAX_NEIGHBOURS} slices on each side ({others})"
            )))
        }
        None if given.unwrap_or(0) > 0 => Err(Error::invalid(format!(
            "network.neighbours is for unet2_5d and resenc2d; {} has none; set it to 0 or change network.kind",
            K::NAME
        ))),
        None => Ok(()),
    }
}
