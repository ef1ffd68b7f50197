//! nnU-Net 2's `checkpoint_*.pth`: weights, and what prediction needs besides the plans.

use std::path::{Path, PathBuf};

use ctseg_base::{Error, Result};
use ctseg_engine::torch_checkpoint::{Node, TorchFile};
use ctseg_engine::weights::NamedTensors;

/// A checkpoint whose tensors have not been read.
pub(super) struct Checkpoint {
    path: PathBuf,
    file: TorchFile,
}

impl Checkpoint {
    /// # Errors
    /// See [`TorchFile::open`]; a file without `network_weights`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = TorchFile::open(path)?;
        if file.root().get("network_weights").is_none() {
            return Err(Error::file(
                path,
                "has no network_weights; expected an nnU-Net 2 checkpoint",
            ));
        }
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// The configuration that was trained.
    pub(super) fn configuration(&self) -> Result<String> {
        let arguments = self.file.root().get("init_args");
        let name = arguments.and_then(|arguments| arguments.get("configuration")?.text());
        name.map(str::to_owned).ok_or_else(|| {
            Error::file(
                &self.path,
                "has no configuration in init_args; expected an nnU-Net 2 checkpoint",
            )
        })
    }

    pub(super) fn trainer(&self) -> String {
        let name = self.file.root().get("trainer_name").and_then(Node::text);
        name.unwrap_or("unknown trainer").to_owned()
    }

    /// Axes allowed for mirroring, as network axis numbers.
    pub(super) fn mirror_axes(&self) -> Vec<usize> {
        let axes = self.file.root().get("inference_allowed_mirroring_axes");
        let axes = axes.into_iter().flat_map(Node::items);
        let mut axes: Vec<usize> = axes
            .filter_map(|axis| usize::try_from(axis.int()?).ok())
            .collect();
        axes.sort_unstable();
        axes.dedup();
        axes
    }

    /// Epochs trained.
    pub(super) fn epoch(&self) -> usize {
        let epoch = self.file.root().get("current_epoch").and_then(Node::int);
        epoch
            .and_then(|epoch| usize::try_from(epoch).ok())
            .unwrap_or(0)
    }

    /// The exponential moving average of the validation pseudo Dice, if stored.
    pub(super) fn validation_dice(&self) -> Option<f64> {
        let dice = self.file.root().get("_best_ema")?.number();
        dice.filter(|dice| dice.is_finite())
    }

    /// Weights under nnU-Net's names.
    ///
    /// # Errors
    /// Names that are not text; more weights than the file can hold.
    pub(super) fn weights(&mut self) -> Result<NamedTensors> {
        let Some(weights) = self.file.root().get("network_weights") else {
            return Ok(NamedTensors::new());
        };
        // Aliases of the same tensors.
        let is_alias =
            |name: &str| name.contains("decoder.encoder.") || name.contains(".all_modules.");
        let stored = self.file.tensors(weights, |name| !is_alias(name))?;
        self.file.read_all(&stored)
    }
}
