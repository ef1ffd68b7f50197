//! `--device`: one device, or for prediction several.

use std::str::FromStr;

use ctseg_base::Error;
use ctseg_engine::device::DeviceChoice;

/// Devices in the order in which they were named; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices(pub Vec<DeviceChoice>);

impl Devices {
    /// The device of commands that use only one.
    pub fn first(&self) -> DeviceChoice {
        self.0.first().copied().unwrap_or_default()
    }
}

impl FromStr for Devices {
    type Err = Error;

    /// `libtorch:cuda:0,1` are two GPUs, as are `libtorch:cuda:0,libtorch:cuda:1`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut devices = Vec::new();
        for part in text.split(',') {
            let device = match (devices.last(), part.parse::<usize>()) {
                (Some(DeviceChoice::LibTorchCuda(_)), Ok(index)) => {
                    DeviceChoice::LibTorchCuda(index)
                }
                _ => part.parse()?,
            };
            devices.push(device);
        }
        Ok(Self(devices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_devices_are_read() {
        use DeviceChoice::{Flex, LibTorchCpu, LibTorchCuda};
        for (text, expected) in [
            ("flex", vec![Flex]),
            (
                "libtorch:cuda:0,1,3",
                vec![LibTorchCuda(0), LibTorchCuda(1), LibTorchCuda(3)],
            ),
            ("libtorch:cuda,libtorch", vec![LibTorchCuda(0), LibTorchCpu]),
            ("flex,flex", vec![Flex, Flex]),
        ] {
            assert_eq!(text.parse::<Devices>().unwrap().0, expected, "{text}");
        }
        for wrong in ["", "0", "flex,1", "libtorch:cuda:0,", "libtorch:cuda:0,x"] {
            assert!(wrong.parse::<Devices>().is_err(), "{wrong}");
        }
    }
}
