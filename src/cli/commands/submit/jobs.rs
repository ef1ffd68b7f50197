//! The jobs that can be submitted: how a command line becomes sbatch options, environment and arguments.

use std::path::PathBuf;

use clap::Args;

use super::checks;
use super::command_line::CommandLine;
use super::options::{by_default, with_tasks};
use super::plan::TaskArgs;
use super::plan::{JobArgs, Plan, Step};
use crate::cli::commands::fit::{FitArgs, recipe};
use crate::cli::commands::predict::PredictArgs;
use crate::cli::env::{GPUS, nnunet_preprocessed};
use crate::cli::settings::Settings;
use crate::slurm::script::{Job, Work};
use ctseg_base::progress::Silent;
use ctseg_base::{Error, Result};

#[derive(Args)]
pub struct PredictJob {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    tasks: TaskArgs,
    #[command(flatten)]
    predict: PredictArgs,
}

#[derive(Args)]
pub struct FitJob {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    fit: FitArgs,
}

#[derive(Args)]
pub struct FitFoldsJob {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    fit: FitArgs,
}

#[derive(Args)]
pub struct ChainJob {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    tasks: TaskArgs,
    /// Recipe of stage 1: name or file
    #[arg(long, default_value = "1", value_name = "NAME|FILE")]
    stage1: String,
    /// Recipe of stage 2: name or file
    #[arg(long, default_value = "2", value_name = "NAME|FILE")]
    stage2: String,
    /// Dataset to train on and to evaluate against
    data: PathBuf,
    /// Model folder to create
    model: PathBuf,
    /// Volumes to segment: a file, a folder, a pattern or @list
    volumes: String,
    /// Output folder for label maps
    labels: PathBuf,
}

fn refused(is_there: bool, name: &str, why: &str) -> Result<()> {
    match is_there {
        true => Err(Error::usage(format!("{name} cannot be submitted: {why}"))),
        false => Ok(()),
    }
}

fn environment(values: &[(&str, Option<String>)]) -> Vec<(String, String)> {
    let known = values.iter();
    let known = known.filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
    known.collect()
}

fn shown(path: &Option<PathBuf>) -> Option<String> {
    path.as_ref().map(|path| path.display().to_string())
}

impl PredictJob {
    pub fn plan(&self, line: &CommandLine, settings: &Settings) -> Result<Plan> {
        let predict = &self.predict;
        refused(
            predict.shard.is_some(),
            "--shard",
            "each task processes its own shard; set their number with --tasks",
        )?;
        let arguments = line.arguments("predict", &["claim"]);
        let sharing = match &predict.claim {
            Some(folder) => ["--claim".to_owned(), folder.display().to_string()],
            None => ["--shard".to_owned(), format!("1/{}", self.tasks.tasks)],
        };
        let sharing: Vec<&str> = sharing.iter().map(String::as_str).collect();
        line.check("predict", &sharing, &arguments)?;
        let mut options = self.job.options(Work::Predict)?;
        with_tasks(&mut options, (1, self.tasks.tasks))?;
        self.job.check(|| {
            let data_root = predict.data_root.as_ref();
            let data_root = data_root.or(settings.config.data_root.as_ref());
            let data_root = data_root.map(PathBuf::as_path);
            checks::inputs(&predict.inputs, &predict.output, data_root)?;
            match predict.model.as_slice() {
                [] => checks::model(&settings.config.model_or(None))?,
                models => models.iter().try_for_each(|model| checks::model(model))?,
            }
            checks::target(&predict.output, self.job.dry_run)
        })?;
        let job = Job {
            work: Work::Predict,
            options,
            environment: environment(&[
                ("CTSEG_CLAIM", shown(&predict.claim)),
                ("CTSEG_SHARES", self.tasks.shares(&predict.claim)),
            ]),
            arguments,
        };
        Ok(Plan::of(job, self.job.dry_run))
    }
}

impl FitJob {
    pub fn plan(&self, line: &CommandLine, settings: &Settings) -> Result<Plan> {
        let fit = &self.fit;
        refused(
            fit.resume.is_some(),
            "--resume",
            "a requeued job resumes its own run by itself",
        )?;
        let gpus = self.job.gpus_per_training(fit.alone, settings)?;
        let runs = fit.runs.clone().or_else(|| settings.config.runs.clone());
        let arguments = line.arguments("fit", &["runs"]);
        line.check("fit", &[], &arguments)?;
        let options = self.job.options(Work::Fit)?;
        recipe(fit).map_err(|error| Error::usage(error.to_string()))?;
        self.job
            .check(|| checks::fit(fit, &settings.config, self.job.dry_run).map(drop))?;
        let job = Job {
            work: Work::Fit,
            options,
            environment: environment(&[("CTSEG_RUNS", shown(&runs)), (GPUS, gpus)]),
            arguments,
        };
        Ok(Plan::of(job, self.job.dry_run))
    }
}

impl FitFoldsJob {
    pub fn plan(&self, line: &CommandLine, settings: &Settings) -> Result<Plan> {
        let fit = &self.fit;
        refused(
            fit.resume.is_some(),
            "--resume",
            "a requeued job resumes its own run by itself",
        )?;
        refused(
            fit.fold.is_some(),
            "--fold",
            "each task trains its own fold; use 'submit slurm fit' for a single fold",
        )?;
        let gpus = self.job.gpus_per_training(fit.alone, settings)?;
        let runs = fit.runs.clone().or_else(|| settings.config.runs.clone());
        let passed = line.arguments("fit-folds", &["runs", "stage", "model"]);
        let stage = fit.stage.clone().unwrap_or_else(|| "2".to_owned());
        line.check("fit", &["--stage", &stage], &passed)?;
        let mut recipe = recipe(fit).map_err(|error| Error::usage(error.to_string()))?;
        let model = settings.config.model_or(fit.model.clone());
        self.job.check(|| {
            if let Some(mut dataset) = checks::fit(fit, &settings.config, self.job.dry_run)? {
                let preprocessed = nnunet_preprocessed();
                recipe = dataset.use_predefined_splits(
                    recipe.clone(),
                    preprocessed.as_deref(),
                    &Silent,
                )?;
            }
            checks::model(&model)
        })?;
        let mut options = self.job.options(Work::FitFolds)?;
        let last = u32::try_from(recipe.folds.saturating_sub(1)).unwrap_or(u32::MAX);
        with_tasks(&mut options, (0, last))?;
        let job = Job {
            work: Work::FitFolds,
            options,
            environment: environment(&[
                ("CTSEG_RUNS", shown(&runs)),
                ("CTSEG_STAGE", Some(stage)),
                (GPUS, gpus),
            ]),
            arguments: [vec![model.display().to_string()], passed].concat(),
        };
        Ok(Plan::of(job, self.job.dry_run))
    }
}

/// Arguments of the jobs of a chain.
struct ChainArguments {
    stages: [Vec<String>; 2],
    predict: Vec<String>,
    evaluate: Vec<String>,
}

impl ChainJob {
    fn arguments(&self, line: &CommandLine) -> Result<ChainArguments> {
        let [data, model, labels] =
            [&self.data, &self.model, &self.labels].map(|path| path.display().to_string());
        // The rest are flags of every command, such as --device.
        let mut everywhere = line.arguments("chain", &["stage1", "stage2"]);
        for own in [&data, &model, &self.volumes, &labels] {
            if let Some(at) = everywhere.iter().rposition(|word| word == own) {
                everywhere.remove(at);
            }
        }
        let fit = |stage: &str| {
            let words = ["--stage", stage, "--data", &data, "--model", &model];
            [words.map(str::to_owned).to_vec(), everywhere.clone()].concat()
        };
        let words = [&self.volumes, "-o", &labels, "--model", &model].map(str::to_owned);
        let predict = [words.to_vec(), everywhere.clone()].concat();
        let stages = [fit(&self.stage1), fit(&self.stage2)];
        stages
            .iter()
            .try_for_each(|words| line.check("fit", &[], words))?;
        line.check("predict", &[], &predict)?;
        Ok(ChainArguments {
            stages,
            predict,
            evaluate: [vec![labels.clone(), data.clone()], everywhere.clone()].concat(),
        })
    }

    pub fn plan(&self, line: &CommandLine, settings: &Settings) -> Result<Plan> {
        let arguments = self.arguments(line)?;
        self.job.check(|| {
            let data_root = settings.config.data_root.as_deref();
            checks::dataset(&self.data, data_root)?;
            checks::inputs(&[self.volumes.clone().into()], &self.labels, data_root)?;
            checks::target(&self.labels, self.job.dry_run)
        })?;
        let time = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S");
        let name = self.model.file_name().unwrap_or_default().to_string_lossy();
        let group = ("CTSEG_MLFLOW_GROUP", Some(format!("chain {name} {time}")));
        let gpus = self.job.gpus_per_training(false, settings)?;
        let shares = self.tasks.shares(&None);
        let step = |work, name: Option<&str>, arguments: Vec<String>, after| {
            let mut options = self.job.options(work)?;
            if let Some(name) = name {
                by_default(&mut options, "job-name", name.to_owned());
            }
            if work == Work::Predict {
                with_tasks(&mut options, (1, self.tasks.tasks))?;
            }
            let job = Job {
                work,
                options,
                environment: environment(&[
                    group.clone(),
                    (GPUS, gpus.clone().filter(|_| work == Work::Fit)),
                    (
                        "CTSEG_SHARES",
                        shares.clone().filter(|_| work == Work::Predict),
                    ),
                ]),
                arguments,
            };
            Ok::<Step, Error>(Step { job, after })
        };
        let [stage1, stage2] = arguments.stages;
        Ok(Plan {
            steps: vec![
                step(Work::Fit, Some("ctseg-stage1"), stage1, Vec::new())?,
                step(
                    Work::Fit,
                    Some("ctseg-stage2"),
                    stage2,
                    vec![("afterok", 0)],
                )?,
                step(Work::Predict, None, arguments.predict, vec![("afterok", 1)])?,
                // Evaluate even if some volumes failed, but not if stage 2 did: label maps would be an earlier model's.
                step(
                    Work::Evaluate,
                    None,
                    arguments.evaluate,
                    vec![("afterok", 1), ("afterany", 2)],
                )?,
            ],
            dry_run: self.job.dry_run,
        })
    }
}
