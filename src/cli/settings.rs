//! Settings from flags, environment and settings file.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::args::devices::Devices;
use super::config::Config;
use super::logging::{Observing, ObservingArgs};
use ctseg_base::limits::threads;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_engine::device::{Compute, DeviceChoice};
use ctseg_engine::precision::PrecisionChoice;

/// Options of every command.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Settings file [default: ctseg.toml in the working folder, if present]
    #[arg(long, global = true, env = "CTSEG_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the result as JSON to stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Engine and device: auto, flex, libtorch or libtorch:cuda:N; predict also takes several: libtorch:cuda:0,1
    #[arg(long, global = true, env = "CTSEG_DEVICE")]
    pub device: Option<Devices>,
    /// Network precision: auto (bf16 where supported), f32, bf16, f16 or int8 (after `ctseg quantize`)
    #[arg(long, global = true, env = "CTSEG_PRECISION")]
    pub precision: Option<PrecisionChoice>,
    /// Number of compute threads [default: the cores available to this process]
    #[arg(long, global = true, env = "CTSEG_THREADS")]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub observing: ObservingArgs,
}

/// Settings from flags, environment and settings file.
pub struct Settings {
    pub config: Config,
    pub devices: Devices,
    /// The first of them.
    pub device: DeviceChoice,
    pub precision: PrecisionChoice,
    pub threads: usize,
    pub json: bool,
    pub observing: Arc<Observing>,
}

impl Settings {
    /// `global`, completed from `config`.
    ///
    /// # Errors
    /// The devices, the precision or the number of threads are invalid.
    pub fn new(global: Global, config: Config, observing: &Arc<Observing>) -> Result<Self> {
        let threads = threads::resolve(global.threads)?;
        let devices = match global.device {
            Some(devices) => devices,
            None => config.devices()?,
        };
        Ok(Self {
            device: devices.first(),
            devices,
            precision: match global.precision {
                Some(precision) => precision,
                None => config.precision()?,
            },
            threads,
            json: global.json,
            observing: Arc::clone(observing),
            config,
        })
    }

    /// Receives progress, messages and warnings.
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.observing.observer()
    }

    /// Opens the requested device.
    ///
    /// # Errors
    /// Several devices were requested.
    pub fn compute(&self) -> Result<Compute> {
        match self.computes()?.as_slice() {
            [compute] => Ok(compute.clone()),
            several => Err(Error::usage(format!(
                "--device names {} devices, but only predict uses more than one; name a single device",
                several.len()
            ))),
        }
    }

    /// Opens all requested devices.
    pub fn computes(&self) -> Result<Vec<Compute>> {
        let devices = self.devices.0.iter();
        let computes: Vec<Compute> = devices
            .map(|device| Compute::open(*device, self.precision, self.threads))
            .collect::<Result<_>>()?;
        self.observing.set_engine(&computes);
        Ok(computes)
    }
}
