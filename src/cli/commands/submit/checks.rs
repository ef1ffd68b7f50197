//! Checks before a job is submitted: its inputs exist, and its outputs can be written.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cli::commands::fit::FitArgs;
use crate::cli::config::Config;
use ctseg_base::atomic_file::{ensure_not_file, temporary_file};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::dataset::Dataset;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::multi_part::MultiPartModel;
use ctseg_core::outputs::inputs::expand_inputs;

pub fn program() -> Result<PathBuf> {
    let path = std::env::current_exe().map_err(Error::io("ctseg", "find this program"))?;
    match path.file_name().is_some_and(|name| name == "ctseg") {
        true => Ok(path),
        false => Err(Error::file(
            &path,
            "job scripts call this program as ctseg; rename it, or copy it under that name",
        )),
    }
}

/// The arguments of this command line.
pub fn words() -> Result<Vec<String>> {
    let words = std::env::args_os().skip(1);
    words
        .map(|word| {
            word.into_string().map_err(|word| {
                Error::usage(format!(
                    "'{}' is not UTF-8 and cannot be written to a job script; rename it",
                    word.to_string_lossy()
                ))
            })
        })
        .collect()
}

/// Warnings about paths that compute nodes rarely share.
pub fn places(program: &Path, cwd: &Path) -> Vec<String> {
    let is_local = |path: &Path| {
        let local = ["/tmp", "/var/tmp", "/dev/shm", "/run"];
        local.iter().any(|folder| path.starts_with(folder))
    };
    let warned = [("this program is", program), ("the working folder is", cwd)];
    let warned = warned.into_iter().filter(|(_, path)| is_local(path));
    let line = |(what, path): (&str, &Path)| {
        format!(
            "{what} {}, which compute nodes may not share; use a shared folder",
            path.display()
        )
    };
    warned.map(line).collect()
}

/// Checks that there is at least one volume and that all are readable.
pub fn inputs(inputs: &[OsString], output: &Path, data_root: Option<&Path>) -> Result<()> {
    let paths = expand_inputs(inputs, output, data_root)?.files;
    let bad = paths.iter().filter_map(|path| {
        let error = regular_file::open(path).err()?;
        Some((path, error))
    });
    let bad: Vec<_> = bad.collect();
    match bad.first() {
        None => Ok(()),
        Some((path, error)) => Err(Error::file(
            path,
            format!(
                "cannot be read: {error} ({} of {} unreadable); repair or remove them",
                bad.len(),
                counted(paths.len(), "volume")
            ),
        )),
    }
}

/// Checks that the model is complete.
pub fn model(path: &Path) -> Result<()> {
    match MultiPartModel::is_at(path) {
        true => Ok(()),
        false => Bundle::open(path).map(drop),
    }
}

/// Checks that the folder `path`, or the folder of the volume `path`, is writable; a dry run writes nothing.
pub fn target(path: &Path, dry_run: bool) -> Result<()> {
    let folder = match ctseg_image::formats::is_volume_name(path) && !path.is_dir() {
        true => ctseg_base::atomic_file::parent_of(path),
        false => path,
    };
    match dry_run {
        true => ensure_not_file(folder),
        false => temporary_file(folder).map(drop),
    }
}

pub fn dataset(path: &Path, root: Option<&Path>) -> Result<Dataset> {
    Dataset::open_in(path, root)
}

/// Checks the inputs and outputs of a training, from flags, environment and settings file.
///
/// Returns the dataset, if one is given.
pub fn fit(args: &FitArgs, config: &Config, dry_run: bool) -> Result<Option<Dataset>> {
    let mut opened = None;
    if let Some(data) = args.data.as_ref().or(config.data.as_ref()) {
        let root = args.data_root.as_ref().or(config.data_root.as_ref());
        opened = Some(dataset(data, root.map(PathBuf::as_path))?);
    }
    if let Some(from) = &args.from {
        model(from)?;
    }
    let target_of = |path: &PathBuf| target(ctseg_base::atomic_file::parent_of(path), dry_run);
    target_of(&config.model_or(args.model.clone()))?;
    target_of(&config.runs_or(args.runs.clone()))?;
    Ok(opened)
}
