//! `ctseg export onnx`: not supported yet, see `docs/export.md`.

use std::ffi::OsString;

use clap::Args;

use crate::cli::outcome::Outcome;
use ctseg_base::Error;

#[derive(Args)]
pub struct OnnxArgs {
    /// Any arguments, ignored
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<OsString>,
}

pub fn run(_: &OnnxArgs) -> anyhow::Result<Outcome> {
    Err(Error::unsupported(
        "ONNX export is not supported: no Rust exporter has transposed and 3D convolutions yet; use 'ctseg export safetensors MODEL -o FOLDER' and torch.onnx.export with scripts/torch_network.py (docs/export.md)",
    )
    .into())
}
