//! What flags, environment and settings file say together.

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

/// What every command takes.
#[derive(Args)]
pub struct Global {
    /// Settings file; `ctseg.toml` in the working folder is read if it is there
    #[arg(long, global = true, env = "CTSEG_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Engine and device: auto, flex, libtorch, libtorch:cuda:N; for predict also several: libtorch:cuda:0,1
    #[arg(long, global = true, env = "CTSEG_DEVICE")]
    pub device: Option<Devices>,
    /// Numbers that networks compute in: auto (bf16 where the device has it), f32, bf16, f16, int8 (after `ctseg calibrate`)
    #[arg(long, global = true, env = "CTSEG_PRECISION")]
    pub precision: Option<PrecisionChoice>,
    /// Threads to compute with [default: the cores this process may use]
    #[arg(long, global = true, env = "CTSEG_THREADS")]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub observing: ObservingArgs,
}

/// What flags, environment and settings file say together.
pub struct Settings {
    pub config: Config,
    /// All that were named.
    pub devices: Devices,
    /// The first of them.
    pub device: DeviceChoice,
    pub precision: PrecisionChoice,
    pub threads: usize,
    pub json: bool,
    pub observing: Arc<Observing>,
}

impl Settings {
    /// What `global` says, and `config` where that says nothing.
    ///
    /// # Errors
    /// Devices, a precision or a number of threads that cannot be used.
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

    /// Hears what long work tells.
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.observing.observer()
    }

    /// The engine that was asked for, ready.
    ///
    /// # Errors
    /// Several were asked for.
    pub fn compute(&self) -> Result<Compute> {
        match self.computes()?.as_slice() {
            [compute] => Ok(compute.clone()),
            several => Err(Error::usage(format!(
                "--device names {} devices; this command uses one, only predict shares its work among several",
                several.len()
            ))),
        }
    }

    /// The engines that were asked for, ready.
    pub fn computes(&self) -> Result<Vec<Compute>> {
        let devices = self.devices.0.iter();
        let computes: Vec<Compute> = devices
            .map(|device| Compute::open(*device, self.precision, self.threads))
            .collect::<Result<_>>()?;
        self.observing.computes_on(&computes);
        Ok(computes)
    }
}
