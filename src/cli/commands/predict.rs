//! `ctseg predict`: segment volumes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use signal_hook::low_level;

use crate::cli::args::bytes::parse_bytes;
use crate::cli::args::duration::parse_duration;
use crate::cli::args::reading::RescaleArgs;
use crate::cli::args::time_limit::LimitArgs;
use crate::cli::args::tracked_run::{RecordArgs, TrackedRun};
use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use crate::cli::signals::stop_then_leave_on_signals;
use ctseg_base::limits::memory;
use ctseg_base::limits::memory::MemoryLimit;
use ctseg_base::limits::threads::return_large_blocks;
use ctseg_base::progress::Observer;
use ctseg_base::text::file::read_text;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::inference::threshold::Threshold;
use ctseg_core::outputs::inputs::{PredictCase, expand_inputs, plan_outputs};
use ctseg_core::outputs::probabilities::ProbabilityKind;
use ctseg_core::outputs::{DrawPreview, Outputs};
use ctseg_core::run::tracker;
use ctseg_engine::device::Compute;
use ctseg_image::formats::is_volume_name;
use ctseg_image::statistics::totalsegmentator::TableOptions;
use ctseg_predict::claims::Claiming;
use ctseg_predict::shard::Shard;
use ctseg_predict::statistics_csv;
use ctseg_predict::{ImmediateExit, OnAttention, PredictJob, PredictSummary, predict};
use ctseg_report::pictures::{attention, preview};

#[derive(Args)]
pub struct PredictArgs {
    /// Volumes: files, folders (searched recursively), datasets (images only), patterns ('scans/**/ct.nii.gz'), or
    /// @list with one of these per line
    #[arg(required = true)]
    pub(super) inputs: Vec<OsString>,
    /// Folder for label maps, or the file name of a single label map
    #[arg(short, long, default_value = "predictions")]
    pub(super) output: PathBuf,
    /// Model folder; with several, the models' logits are averaged [default: model]
    #[arg(long, env = "CTSEG_MODEL")]
    pub(super) model: Vec<PathBuf>,
    /// Enable test-time augmentation: average over mirrored inputs, along the axes that stage 2 was trained to mirror.
    /// Slightly more accurate; each axis doubles the time
    #[arg(long)]
    tta: bool,
    /// Disable test-time augmentation (on by default for nnU-Net models trained with mirroring)
    #[arg(long, conflicts_with = "tta")]
    no_tta: bool,
    /// Probability threshold, for all structures or for one: 0.4,lesion=0.2 [default: 0.5]. Exclusive classes are each
    /// compared with the background; of several above their thresholds, the one farthest above wins
    #[arg(long, value_name = "P|NAME=P", value_delimiter = ',')]
    threshold: Vec<Threshold>,
    /// Skip the model's postprocessing of label maps
    #[arg(long)]
    no_postprocess: bool,
    /// Draw the attention gates of stage 2: <case>_attention_<level>.png beside each new label map (with --overwrite
    /// also beside existing ones)
    #[arg(long)]
    attention: bool,
    /// Memory limit, such as 4G: slices, patches and logits are processed in smaller portions; volumes that need more
    /// fail before they are read
    #[arg(long, value_parser = parse_bytes)]
    max_ram: Option<u64>,
    #[command(flatten)]
    rescale: RescaleArgs,
    /// Save the probabilities of all structures on the volume's grid: u8 (<case>_probabilities.nii.gz, in steps of
    /// 1/255) or f16 (<case>_probabilities.npy)
    #[arg(long, value_name = "KIND", num_args = 0..=1, default_missing_value = "u8", require_equals = true)]
    save_probabilities: Option<ProbabilityKind>,
    /// Save an uncertainty map: <case>_entropy.nii.gz, the entropy of each voxel's probabilities in bits (for
    /// independent structures, that of the least certain one)
    #[arg(long)]
    save_entropy: bool,
    /// Also write one mask (0 and 1) per structure: <case>/<structure>.nii.gz, the layout of TotalSegmentator
    #[arg(long)]
    split: bool,
    /// With --split: threshold each structure on its own at 0.5, so that masks may overlap. Only for models with
    /// independent structures. Statistics are those of the masks
    #[arg(long, requires = "split")]
    overlap: bool,
    /// With --split or --preview: write no label map
    #[arg(long)]
    no_label_map: bool,
    /// Write only these structures, such as liver,spleen or @list with one name per line; label values do not change.
    /// A multi-part model runs only the parts needed, around the structures located by its rough model
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    structures: Vec<String>,
    /// Write <case>_statistics.json: volume in mm³ and mean HU of every structure, as TotalSegmentator's
    /// statistics.json; 0 for structures cut off by the volume's border. HOW: median, incomplete (include cut-off
    /// structures), normalized (intensities from 0 to 1), or several of these separated by commas
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_missing_value = "mean", require_equals = true, conflicts_with = "overlap")]
    statistics: Option<TableOptions>,
    /// Draw <case>_preview.png: three planes with the structures, a frontal view and a legend
    #[arg(long)]
    preview: bool,
    /// Segment again even if a label map of the same input and model exists
    #[arg(long)]
    overwrite: bool,
    /// Process one shard of the volumes, such as 3/8, split by name; in a Slurm array with --array=1-8:
    /// --shard $SLURM_ARRAY_TASK_ID/8
    #[arg(long, value_name = "I/N", conflicts_with = "claim")]
    pub(super) shard: Option<Shard>,
    /// Share the volumes among all processes with the same FOLDER (on shared storage): each volume is claimed by one
    /// process, and reclaimed if that process dies
    #[arg(long, value_name = "FOLDER")]
    pub(super) claim: Option<PathBuf>,
    /// Treat a process on another machine as dead after this long without a heartbeat
    #[arg(long, value_parser = parse_duration, default_value = "10m", requires = "claim")]
    claim_expiry: Duration,
    /// Base folder for relative paths in a descriptor among the inputs
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    pub(super) data_root: Option<PathBuf>,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    record: RecordArgs,
}

/// A warning if `--max-ram` exceeds the memory limit of the process.
fn above_limit(requested: u64, limit: Option<MemoryLimit>) -> Option<String> {
    let limit = limit.filter(|limit| limit.bytes < requested)?;
    let mib = |bytes: u64| bytes >> 20;
    Some(format!(
        "--max-ram {}M exceeds the memory limit of this process, {}M ({}); it may be killed before reaching --max-ram",
        mib(requested),
        mib(limit.bytes),
        limit.source
    ))
}

pub fn run(args: PredictArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    return_large_blocks();
    let observer = settings.observer();
    args.record.check(settings)?;
    let requests = stop_then_leave_on_signals()?;
    args.limit.watch(&requests.stop, &observer)?;
    let outputs = outputs(&args)?;
    let tta = tta(&args);
    if let Some(warning) = args
        .max_ram
        .and_then(|bytes| above_limit(bytes, memory::limit()))
    {
        observer.warn(&warning);
    }
    let (cases, folder) = cases(&args, settings, observer.as_ref())?;
    let draw: &OnAttention = &|case, seen| attention::draw(&case.output, seen);
    // Without destructors: other threads still use what they would drop.
    let leave: &(dyn Fn() + Sync) = &|| {
        let interrupted = Outcome::Interrupted.exit_code();
        settings.observing.ended(interrupted);
        low_level::exit(interrupted.into());
    };
    let job = PredictJob {
        cases,
        folder,
        models: models(args.model, settings),
        computes: settings.computes()?,
        tta,
        postprocess: !args.no_postprocess,
        thresholds: args.threshold.into_iter().collect(),
        overwrite: args.overwrite,
        max_ram: args.max_ram,
        probabilities: args.save_probabilities,
        rescale_hu: args.rescale.rescale_hu(),
        outputs,
        // A single label map has its statistics in its sidecar.
        statistics: !is_volume_name(&args.output) || args.output.is_dir(),
        shard: args.shard,
        claiming: args.claim.map(|folder| Claiming {
            folder,
            expiry: args.claim_expiry,
        }),
        on_attention: args.attention.then_some(draw),
        stop: &requests.stop,
        immediate_exit: Some(ImmediateExit {
            requested: &requests.leave,
            exit: leave,
        }),
    };
    let run = args.record.start("predict", settings, &observer)?;
    let summary = predict(&job, observer.as_ref());
    if let Some(run) = run {
        log_run(&run, &job, summary.as_ref().ok());
        run.end(&outcome_of_run(&summary));
    }
    let summary = summary?;
    print_summary(&summary, &job.folder, settings.json);
    Ok(outcome(&summary))
}

/// The cases to segment, and the folder of the label maps.
fn cases(
    args: &PredictArgs,
    settings: &Settings,
    observer: &dyn Observer,
) -> Result<(Vec<PredictCase>, PathBuf)> {
    let data_root = args.data_root.as_ref();
    let data_root = data_root.or(settings.config.data_root.as_ref());
    let data_root = data_root.map(PathBuf::as_path);
    let inputs = expand_inputs(&args.inputs, &args.output, data_root)?;
    for note in &inputs.notes {
        observer.info(note);
    }
    plan_outputs(&inputs.files, &args.output)
}

/// The given models, or that of the settings file.
fn models(named: Vec<PathBuf>, settings: &Settings) -> Vec<PathBuf> {
    match named.is_empty() {
        true => vec![settings.config.model_or(None)],
        false => named,
    }
}

/// Logs settings and results to the tracked run.
fn log_run(run: &TrackedRun, job: &PredictJob, summary: Option<&PredictSummary>) {
    let devices: Vec<String> = job.computes.iter().map(Compute::to_string).collect();
    let mut parameters = vec![
        ("output", job.folder.display().to_string()),
        ("inputs", job.cases.len().to_string()),
        ("devices", devices.join(",")),
        // As requested; the default of an imported model is part of the metrics.
        ("tta", job.tta.unwrap_or(false).to_string()),
        ("postprocess", job.postprocess.to_string()),
    ];
    parameters.extend(job.shard.map(|shard| ("shard", shard.suffix())));
    run.log_parameters(&parameters);
    let Some(summary) = summary else { return };
    run.log_models(&summary.models);
    let count = |name: &str, count: usize| (format!("cases/{name}"), count as f64);
    run.log_metrics(vec![
        count("all", summary.cases),
        count("written", summary.written.len()),
        count("kept", summary.kept.len()),
        count("by_others", summary.by_others.len()),
        count("failed", summary.failures.len()),
        count("with_notes", summary.notes.len()),
        ("seconds".to_owned(), summary.seconds),
        ("looks".to_owned(), summary.views as f64),
    ]);
    let mut files = vec![summary.manifest_file.clone(), summary.failures_file.clone()];
    if job.statistics {
        files.push(job.folder.join(statistics_csv::FILE_NAME));
    }
    run.log_artifacts(&files);
}

/// How the run of a batch ended.
fn outcome_of_run(summary: &Result<PredictSummary>) -> tracker::Outcome {
    match summary {
        Ok(summary) if summary.interrupted => tracker::Outcome::Interrupted,
        Ok(PredictSummary {
            ended_early: Some(reason),
            ..
        }) => tracker::Outcome::Failed(reason.clone()),
        other => tracker::Outcome::of(other),
    }
}

/// Test-time augmentation, if requested either way.
fn tta(args: &PredictArgs) -> Option<bool> {
    match (args.tta, args.no_tta) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn outputs(args: &PredictArgs) -> Result<Outputs> {
    if args.no_label_map && !args.split && !args.preview {
        return Err(Error::usage(
            "--no-label-map leaves nothing to write; add --split or --preview",
        ));
    }
    let mut names = Vec::new();
    for name in &args.structures {
        match name.trim().strip_prefix('@') {
            Some(list) => names.extend(listed(Path::new(list))?),
            None => names.push(name.trim().to_owned()),
        }
    }
    names.retain(|name| !name.is_empty());
    if names.is_empty() && !args.structures.is_empty() {
        return Err(Error::usage(
            "--structures is empty; expected one or more names, or an @list with names",
        ));
    }
    Ok(Outputs {
        label_map: !args.no_label_map,
        split: args.split,
        overlap: args.overlap,
        entropy: args.save_entropy,
        preview: args.preview.then_some(preview::draw as DrawPreview),
        statistics_json: args.statistics,
        structures: (!names.is_empty()).then_some(names),
    })
}

/// The names in a list file, without empty lines and lines that begin with `#`.
fn listed(list: &Path) -> Result<Vec<String>> {
    let text = read_text(list).map_err(Error::io(list, "read the list"))?;
    let lines = text.lines();
    let names = lines.map(str::trim);
    Ok(names
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

fn outcome(summary: &PredictSummary) -> Outcome {
    if summary.interrupted {
        Outcome::Interrupted
    } else if summary.failures.is_empty() && summary.ended_early.is_none() {
        Outcome::AllDone
    } else if !summary.has_label_maps() {
        Outcome::NothingDone
    } else {
        Outcome::SomeFailed
    }
}

fn summary_json(summary: &PredictSummary) -> Value {
    // Also for paths that are not UTF-8.
    let shown = |paths: &[PathBuf]| -> Vec<String> {
        paths
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    };
    let failed = summary.failures.iter();
    let failed: Vec<_> = failed
        .map(|one| json!({"input": one.input.display().to_string(), "reason": one.reason}))
        .collect();
    let notes: Vec<_> = summary
        .notes
        .iter()
        .map(|(input, note)| json!({"input": input.display().to_string(), "note": note}))
        .collect();
    json!({"written": shown(&summary.written), "kept": shown(&summary.kept), "by_others": shown(&summary.by_others), "failed": failed, "notes": notes, "seconds": summary.seconds, "interrupted": summary.interrupted})
}

/// `folder` is where the label maps are.
pub fn print_summary(summary: &PredictSummary, folder: &Path, as_json: bool) {
    if as_json {
        print_out(&format!("{:#}\n", summary_json(summary)));
        return;
    }
    print_out(&format!(
        "{} of {} segmented in {:.1} s, into {}\n",
        summary.written.len(),
        counted(summary.cases, "volume"),
        summary.seconds,
        folder.shown()
    ));
    let label_maps = |count| counted(count, "label map");
    if !summary.kept.is_empty() {
        print_out(&format!(
            "  kept    {} of the same input and model\n",
            label_maps(summary.kept.len())
        ));
    }
    if !summary.by_others.is_empty() {
        print_out(&format!(
            "  others  {} by other processes sharing the volumes\n",
            label_maps(summary.by_others.len())
        ));
    }
    // Each has been a warning already.
    let counts = [
        ("notes ", summary.notes.len(), &summary.manifest_file),
        ("failed", summary.failures.len(), &summary.failures_file),
    ];
    for (what, count, file) in counts.iter().filter(|(_, count, _)| *count > 0) {
        print_out(&format!("  {what}  {count}, listed in {}\n", file.shown()));
    }
    if let Some(reason) = &summary.ended_early {
        let is_listed = summary.failures.iter().any(|one| one.reason == *reason);
        print_out(&match is_listed {
            true => "  stopped before the end\n".to_owned(),
            false => format!("  stopped before the end: {}\n", reason.shown()),
        });
    }
    if summary.interrupted {
        print_out("  interrupted; run the same command again to continue\n");
    }
}
