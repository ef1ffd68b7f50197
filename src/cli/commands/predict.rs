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
use crate::cli::args::tracked_run::{RecordArgs, Recorded};
use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use crate::cli::signals::stop_then_leave_on_signals;
use ctseg_base::limits::memory;
use ctseg_base::limits::memory::MemoryLimit;
use ctseg_base::limits::threads::give_back_large_blocks;
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
use ctseg_predict::{Leaving, OnAttention, PredictJob, PredictSummary, predict};
use ctseg_report::pictures::{attention, preview};

#[derive(Args)]
pub struct PredictArgs {
    /// Volumes: files, folders with all below them, datasets (of which only the images), patterns
    /// ('scans/**/ct.nii.gz'), or @list with one of these per line
    #[arg(required = true)]
    pub(super) inputs: Vec<OsString>,
    /// Folder for the label maps, or the name of one label map
    #[arg(short, long, default_value = "predictions")]
    pub(super) output: PathBuf,
    /// Model folder [default: model]; named several times, the models' logits are averaged
    #[arg(long, env = "CTSEG_MODEL")]
    pub(super) model: Vec<PathBuf>,
    /// Look at mirror images too and take the mean, along the axes that stage 2 was trained mirrored along:
    /// a little better, twice the time per axis
    #[arg(long)]
    tta: bool,
    /// Look at no mirror images; models of nnU-Net that were trained with them are else used with them
    #[arg(long, conflicts_with = "tta")]
    no_tta: bool,
    /// Mark a structure where its probability is above P [default: 0.5], for all or for one: 0.4,lesion=0.2. Exclusive
    /// classes are compared with the background alone; of several above their thresholds the farthest above wins
    #[arg(long, value_name = "P|NAME=P", value_delimiter = ',')]
    threshold: Vec<Threshold>,
    /// Leave out the clean-up of label maps that the model asks for
    #[arg(long)]
    no_postprocess: bool,
    /// Draw where stage 2's attention gates look: <case>_attention_<level>.png beside each label map that is
    /// made (with --overwrite also of those that are there)
    #[arg(long)]
    attention: bool,
    /// Most memory that may be used, such as 4G: slices, patches and logits are worked on in smaller portions where
    /// that helps, and volumes that cannot be segmented with so little fail before they are read
    #[arg(long, value_parser = parse_bytes)]
    max_ram: Option<u64>,
    #[command(flatten)]
    rescale: RescaleArgs,
    /// Keep the probabilities of all structures on the volume's grid: u8 (<case>_probabilities.nii.gz, in steps of
    /// 1/255) or f16 (<case>_probabilities.npy)
    #[arg(long, value_name = "KIND", num_args = 0..=1, default_missing_value = "u8", require_equals = true)]
    save_probabilities: Option<ProbabilityKind>,
    /// Map how uncertain the prediction is of each voxel: <case>_entropy.nii.gz, the entropy of its probabilities in
    /// bits (of independent structures that of the least certain one)
    #[arg(long)]
    save_entropy: bool,
    /// Write a mask per structure too: <case>/<structure>.nii.gz, 0 and 1, as TotalSegmentator lays them out
    #[arg(long)]
    split: bool,
    /// With --split: every structure on its own, where its probability is above one half, so that masks may overlap;
    /// of models whose structures are independent. Statistics are the masks'
    #[arg(long, requires = "split")]
    overlap: bool,
    /// With --split or --preview: write no label map
    #[arg(long)]
    no_label_map: bool,
    /// Write only these structures, such as liver,spleen, or @list with a name per line; label values stay as they
    /// are. Of a model of several parts only those are run that are needed, where its rough model finds the structures
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    structures: Vec<String>,
    /// Write <case>_statistics.json: volume in mm³ and mean HU of every structure, as TotalSegmentator's
    /// statistics.json; 0 for structures that the volume cuts off. HOW: median, incomplete (also what is cut off),
    /// normalized (intensities from 0 to 1), or several of these with commas
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_missing_value = "mean", require_equals = true, conflicts_with = "overlap")]
    statistics: Option<TableOptions>,
    /// Draw <case>_preview.png: three planes with the structures, the volume from the front, a legend
    #[arg(long)]
    preview: bool,
    /// Make label maps again that are there already, of the same input and model
    #[arg(long)]
    overwrite: bool,
    /// Take one share of the volumes, such as 3/8, by their names: for Slurm arrays --array=1-8 and
    /// --shard $SLURM_ARRAY_TASK_ID/8
    #[arg(long, value_name = "I/N", conflicts_with = "claim")]
    pub(super) shard: Option<Shard>,
    /// Share the volumes with all processes that are given the same folder (on storage that all of them see): each
    /// volume is taken by one, and taken over from processes that die
    #[arg(long, value_name = "FOLDER")]
    pub(super) claim: Option<PathBuf>,
    /// How long a process on another machine must have been silent to be taken for dead
    #[arg(long, value_parser = parse_duration, default_value = "10m", requires = "claim")]
    claim_expiry: Duration,
    /// Folder that the paths of a descriptor among the inputs are relative to
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    pub(super) data_root: Option<PathBuf>,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    record: RecordArgs,
}

/// What is said of a promise that the system may not let anybody keep.
fn beyond(asked: u64, limit: Option<MemoryLimit>) -> Option<String> {
    let limit = limit.filter(|limit| limit.bytes < asked)?;
    let mib = |bytes: u64| bytes >> 20;
    Some(format!(
        "--max-ram {}M is more than this process may take, {}M ({}): it may be killed before it is kept",
        mib(asked),
        mib(limit.bytes),
        limit.source
    ))
}

pub fn run(args: PredictArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    give_back_large_blocks();
    let observer = settings.observer();
    args.record.check(settings)?;
    let asked = stop_then_leave_on_signals()?;
    args.limit.watch(&asked.stop, &observer)?;
    let outputs = outputs(&args)?;
    let tta = tta(&args);
    if let Some(words) = args
        .max_ram
        .and_then(|asked| beyond(asked, memory::limit()))
    {
        observer.warn(&words);
    }
    let (cases, folder) = cases(&args, settings, observer.as_ref())?;
    let draw: &OnAttention = &|case, seen| attention::draw(&case.output, seen);
    // Without destructors: other threads are at work on what they would take apart.
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
        // A single label map that is named has its figures in its sidecar.
        statistics: !is_volume_name(&args.output) || args.output.is_dir(),
        shard: args.shard,
        claiming: args.claim.map(|folder| Claiming {
            folder,
            expiry: args.claim_expiry,
        }),
        on_attention: args.attention.then_some(draw),
        stop: &asked.stop,
        leaving: Some(Leaving {
            asked: &asked.leave,
            leave,
        }),
    };
    let recorded = args.record.begun("predict", settings, &observer)?;
    let summary = predict(&job, observer.as_ref());
    if let Some(recorded) = recorded {
        told(&recorded, &job, summary.as_ref().ok());
        recorded.ended(&outcome_of_run(&summary));
    }
    let summary = summary?;
    print_summary(&summary, &job.folder, settings.json);
    Ok(outcome(&summary))
}

/// What is segmented, and where the label maps go.
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
        observer.say(note);
    }
    plan_outputs(&inputs.files, &args.output)
}

/// The models that are named, or else the one of the settings file.
fn models(named: Vec<PathBuf>, settings: &Settings) -> Vec<PathBuf> {
    match named.is_empty() {
        true => vec![settings.config.model_or(None)],
        false => named,
    }
}

/// Tells the run how it segmented, and what came of it.
fn told(recorded: &Recorded, job: &PredictJob, summary: Option<&PredictSummary>) {
    let devices: Vec<String> = job.computes.iter().map(Compute::to_string).collect();
    let mut parameters = vec![
        ("output", job.folder.display().to_string()),
        ("inputs", job.cases.len().to_string()),
        ("devices", devices.join(",")),
        // What was asked for; what an imported model does by itself stands in its figures.
        ("tta", job.tta.unwrap_or(false).to_string()),
        ("postprocess", job.postprocess.to_string()),
    ];
    parameters.extend(job.shard.map(|shard| ("shard", shard.suffix())));
    recorded.parameters(&parameters);
    let Some(summary) = summary else { return };
    recorded.models(&summary.models);
    let count = |name: &str, count: usize| (format!("cases/{name}"), count as f64);
    recorded.figures(vec![
        count("all", summary.cases),
        count("written", summary.written.len()),
        count("kept", summary.kept.len()),
        count("by_others", summary.by_others.len()),
        count("failed", summary.failures.len()),
        count("with_notes", summary.notes.len()),
        ("seconds".to_owned(), summary.seconds),
        ("looks".to_owned(), summary.looks as f64),
    ]);
    let mut files = vec![summary.manifest_file.clone(), summary.failures_file.clone()];
    if job.statistics {
        files.push(job.folder.join(statistics_csv::FILE_NAME));
    }
    recorded.files(&files);
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

/// What is said about mirror images, if anything is.
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
            "--no-label-map leaves nothing to write; expected --split or --preview with it",
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
            "--structures names none; expected one or more names, or @list with some",
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

/// The names in a list; lines that are empty or begin with `#` say nothing.
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
    // Paths that are not UTF-8 are shown, too.
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
            "  kept    {}, made before of the same input and model\n",
            label_maps(summary.kept.len())
        ));
    }
    if !summary.by_others.is_empty() {
        print_out(&format!(
            "  others  {} by the processes that share the volumes\n",
            label_maps(summary.by_others.len())
        ));
    }
    // Each was a warning when it was found.
    let told = [
        ("notes ", summary.notes.len(), &summary.manifest_file),
        ("failed", summary.failures.len(), &summary.failures_file),
    ];
    for (what, count, file) in told.iter().filter(|(_, count, _)| *count > 0) {
        print_out(&format!("  {what}  {count}, listed in {}\n", file.shown()));
    }
    if let Some(reason) = &summary.ended_early {
        let was_said = summary.failures.iter().any(|one| one.reason == *reason);
        print_out(&match was_said {
            true => "  stopped before the end\n".to_owned(),
            false => format!("  stopped before the end: {}\n", reason.shown()),
        });
    }
    if summary.interrupted {
        print_out("  stopped before the end; the same command goes on with the rest\n");
    }
}
