//! `ctseg export onnx`: not possible yet; `docs/export.md` says what was looked at.

use std::ffi::OsString;

use clap::Args;

use crate::cli::outcome::Outcome;
use ctseg_base::Error;

#[derive(Args)]
pub struct OnnxArgs {
    /// Whatever is asked for
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

pub fn run(_: &OnnxArgs) -> anyhow::Result<Outcome> {
    Err(Error::invalid(
        "ONNX cannot be written: no exporter for Rust knows transposed and 3-D convolutions yet; use 'ctseg export safetensors MODEL -o FOLDER' and torch.onnx.export on scripts/torch_network.py (docs/export.md)",
    )
    .into())
}
