//! A prediction job and its summary.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::claims::Claiming;
use crate::shard::Shard;
use ctseg_base::failures::Failure;
use ctseg_base::{Error, Result};
use ctseg_core::inference::attention::Attention;
use ctseg_core::inference::cascade::Cascade;
use ctseg_core::inference::load_options::Loading;
use ctseg_core::inference::memory_limit::Limit;
use ctseg_core::inference::predictor::Predictor;
use ctseg_core::inference::threshold::Thresholds;
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::model::multi_part::Models;
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_core::outputs::probabilities::ProbabilityKind;
use ctseg_core::outputs::sidecar::sidecar_path;
use ctseg_core::outputs::{Outputs, statistics_path};
use ctseg_engine::device::Compute;
use ctseg_engine::precision::Precision;
use ctseg_image::preprocess::channels::Window;
use ctseg_image::preprocess::rescale_hu::RescaleHu;

/// What to segment, with what.
pub struct PredictJob<'a> {
    pub cases: Vec<PredictCase>,
    /// Where `predictions.json` goes, and `failures.jsonl` if a case fails.
    pub folder: PathBuf,
    /// One model, or several whose logits are averaged, see [`Cascade::segment`]; or one of several parts.
    pub models: Vec<PathBuf>,
    /// One device, or several that take cases from one queue.
    pub computes: Vec<Compute>,
    /// Whether stage 2 looks at mirror images too, see [`ctseg_core::inference::test_time_augmentation`]; none: as the
    /// models usually do.
    pub tta: Option<bool>,
    /// Whether label maps are cleaned up as the model asks for.
    pub postprocess: bool,
    /// From which probability on structures are marked.
    pub thresholds: Thresholds,
    /// Whether label maps that are whole and of this input and model are made again.
    pub overwrite: bool,
    /// Most memory that the process may take, in bytes; see [`ctseg_core::inference::memory_limit`].
    pub max_ram: Option<u64>,
    /// Whether probabilities are kept beside the label maps, and how.
    pub probabilities: Option<ProbabilityKind>,
    /// How the volumes' values become Hounsfield units; none: they are.
    pub rescale_hu: Option<RescaleHu>,
    /// Which files each case gives.
    pub outputs: Outputs,
    /// Whether `statistics.csv` is written into the folder at the end.
    pub statistics: bool,
    /// The part of the cases that is this process's.
    pub shard: Option<Shard>,
    /// Shares the cases with other processes, each case to one of them.
    pub claiming: Option<Claiming>,
    /// Is shown where stage 2's attention gates look in each case that is segmented.
    pub on_attention: Option<&'a OnAttention>,
    /// Set from outside to stop after the cases under way.
    pub stop: &'a AtomicBool,
    /// A way to leave without waiting for the cases under way.
    pub leaving: Option<Leaving<'a>>,
}

impl PredictJob<'_> {
    /// Whether something is made of the probabilities on a volume's grid.
    pub(super) fn tells(&self) -> bool {
        self.probabilities.is_some() || self.outputs.entropy || self.outputs.overlap
    }

    /// Memory is counted for one device.
    pub(super) fn refuse_several_devices(&self) -> Result<()> {
        if self.max_ram.is_none() || self.computes.len() < 2 {
            return Ok(());
        }
        Err(Error::usage(
            "--max-ram counts the memory of one device; name one with --device",
        ))
    }

    /// A model of several parts has no network that knows all structures.
    pub(super) fn refuse_parts(&self, models: &Models) -> Result<()> {
        let wants_one_network = self.tells() || self.on_attention.is_some();
        if !wants_one_network || models.tells_probabilities() {
            return Ok(());
        }
        Err(Error::usage(
            "--save-probabilities, --save-entropy, --overlap and --attention are of one network; a model of several parts has none of all its structures: name a part's folder with --model",
        ))
    }

    /// See [`Models::ct_window`]; an error if Hounsfield units are asked for and there are none.
    pub(super) fn ct_window(&self, models: &Models) -> Result<Option<Window>> {
        let window = models.ct_window();
        match self.rescale_hu.is_some() && window.is_none() {
            true => Err(Error::usage(
                "--rescale-hu is for CT, and the model was trained on other images; leave it out",
            )),
            false => Ok(window),
        }
    }

    /// The cases that are this process's to look at.
    pub(super) fn own_cases(&self) -> Vec<PredictCase> {
        let own = |case: &&PredictCase| {
            let shard = self.shard;
            shard.is_none_or(|shard| shard.holds(&self.folder, case))
        };
        self.cases.iter().filter(own).cloned().collect()
    }

    /// One for each device, and the volumes that `--max-ram` is too little for, with why.
    pub(super) fn predictors(
        &self,
        models: &Models,
        cases: &[PredictCase],
    ) -> Result<(Vec<Predictor>, BTreeMap<PathBuf, String>)> {
        let limit = self.max_ram.map(|bytes| {
            let inputs = cases.iter().filter(|case| case.refused.is_none());
            let inputs: Vec<PathBuf> = inputs.map(|case| case.input.clone()).collect();
            Limit::new(bytes, &inputs, self.tells())
        });
        let predictors = self.computes.iter().map(|compute| {
            if compute.precision == Precision::F32 || self.max_ram.is_some() {
                compute.keep_little_memory();
            }
            let loading = Loading {
                compute,
                tta: self.tta,
                postprocess: self.postprocess,
                thresholds: &self.thresholds,
                limit: limit.as_ref(),
            };
            let predictor = Predictor::load(models, &loading)?;
            if self.outputs.overlap && predictor.cascade().is_some_and(Cascade::is_exclusive) {
                return Err(Error::usage(
                    "--overlap: the model's classes are exclusive, no voxel can be of two; expected a model of independent structures (outputs = \"independent\" in its recipe)",
                ));
            }
            Ok(predictor)
        });
        let predictors = predictors.collect::<Result<_>>()?;
        Ok((predictors, limit.map(Limit::refused).unwrap_or_default()))
    }

    /// Refuses cases that are called as another one's statistics are, and those others.
    pub(super) fn refuse_shared_names(&self, cases: &mut [PredictCase]) {
        if self.outputs.statistics_json.is_none() {
            return;
        }
        let by = |file: fn(&Path) -> PathBuf| -> HashMap<PathBuf, PathBuf> {
            let cases = self.cases.iter();
            cases
                .map(|case| (file(&case.output), case.input.clone()))
                .collect()
        };
        let (tables, sidecars) = (by(statistics_path), by(sidecar_path));
        for case in cases {
            let other = tables
                .get(&sidecar_path(&case.output))
                .or_else(|| sidecars.get(&statistics_path(&case.output)));
            if let (Some(other), None) = (other, &case.refused) {
                case.refused = Some(format!(
                    "its sidecar or statistics would have the same name as those of {}; predict them into two folders",
                    other.display()
                ));
            }
        }
    }
}

/// Leaving at once.
#[derive(Clone, Copy)]
pub struct Leaving<'a> {
    /// Set from outside.
    pub asked: &'a AtomicBool,
    /// Ends the process; is called when everything on disk is in order.
    pub leave: &'a (dyn Fn() + Sync),
}

/// Hears of what a case's attention gates look at.
pub type OnAttention = dyn Fn(&PredictCase, &Attention) -> Result<()> + Sync;

/// What came of a batch. Cases are listed in the order in which they were named.
#[derive(Debug, Clone, Default)]
pub struct PredictSummary {
    /// What the cases were segmented by.
    pub models: Vec<ModelUsed>,
    /// How many mirror images they looked at, the volume itself included.
    pub looks: usize,
    /// How many cases were this process's to look at.
    pub cases: usize,
    pub written: Vec<PathBuf>,
    /// Label maps that were there already, of the same input, model and version, or changed by hand.
    pub kept: Vec<PathBuf>,
    /// Label maps of cases that failed because ctseg has not made what is there.
    pub protected: Vec<PathBuf>,
    /// Label maps of the other processes that share the cases.
    pub by_others: Vec<PathBuf>,
    pub failures: Vec<Failure>,
    /// Where the failures are listed.
    pub failures_file: PathBuf,
    /// Where all cases are.
    pub manifest_file: PathBuf,
    /// Cases that were not segmented in the normal way, and why.
    pub notes: Vec<(PathBuf, String)>,
    pub seconds: f64,
    /// Set if the batch was stopped from outside before its end.
    pub interrupted: bool,
    /// Why the batch ended before its end, where that was not asked for.
    pub ended_early: Option<String>,
}

impl PredictSummary {
    /// Whether a case has a label map now, be it somebody else's.
    pub fn has_label_maps(&self) -> bool {
        let all = [&self.written, &self.kept, &self.by_others, &self.protected];
        all.iter().any(|label_maps| !label_maps.is_empty())
    }
}
