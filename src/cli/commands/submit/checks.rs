//! What can be known of a job before it is submitted: that what it reads is there, and that it can write.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cli::commands::fit::FitArgs;
use crate::cli::config::Config;
use ctseg_base::atomic_file::{refuse_file, temporary_file};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result, regular_file};
use ctseg_core::dataset::Dataset;
use ctseg_core::model::bundle::Bundle;
use ctseg_core::model::multi_part::PartedModel;
use ctseg_core::outputs::inputs::expand_inputs;

/// This program, as jobs find it.
pub fn program() -> Result<PathBuf> {
    let path = std::env::current_exe().map_err(Error::io("ctseg", "find this program"))?;
    match path.file_name().is_some_and(|name| name == "ctseg") {
        true => Ok(path),
        false => Err(Error::file(
            &path,
            "job scripts call this program by the name ctseg; rename it, or copy it under that name",
        )),
    }
}

/// The words of this command line after the program's name.
pub fn words() -> Result<Vec<String>> {
    let words = std::env::args_os().skip(1);
    words
        .map(|word| {
            word.into_string().map_err(|word| {
                Error::usage(format!(
                    "'{}' is not UTF-8, which job scripts cannot hold; rename it",
                    word.to_string_lossy()
                ))
            })
        })
        .collect()
}

/// Warnings about places that other machines rarely see.
pub fn places(program: &Path, cwd: &Path) -> Vec<String> {
    let is_local = |path: &Path| {
        let local = ["/tmp", "/var/tmp", "/dev/shm", "/run"];
        local.iter().any(|folder| path.starts_with(folder))
    };
    let warned = [("this program is", program), ("jobs would work in", cwd)];
    let warned = warned.into_iter().filter(|(_, path)| is_local(path));
    let line = |(what, path): (&str, &Path)| {
        format!(
            "{what} {}, which the cluster's nodes may not see, or each its own; use a folder that they share",
            path.display()
        )
    };
    warned.map(line).collect()
}

/// There is at least one volume, and all can be read.
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
                "cannot be read: {error} ({} of {} cannot); mend or leave them out",
                bad.len(),
                counted(paths.len(), "volume")
            ),
        )),
    }
}

/// A model that is whole.
pub fn model(path: &Path) -> Result<()> {
    match PartedModel::is_at(path) {
        true => Ok(()),
        false => Bundle::open(path).map(drop),
    }
}

/// Something can be written into the folder `path`, or beside the file of this name; a dry run writes nothing.
pub fn target(path: &Path, dry_run: bool) -> Result<()> {
    let folder = match ctseg_image::formats::is_volume_name(path) && !path.is_dir() {
        true => ctseg_base::atomic_file::parent_of(path),
        false => path,
    };
    match dry_run {
        true => refuse_file(folder),
        false => temporary_file(folder).map(drop),
    }
}

pub fn dataset(path: &Path, root: Option<&Path>) -> Result<Dataset> {
    Dataset::open_in(path, root)
}

/// What a training reads and writes, as flags, environment and settings file name it.
///
/// Returns the dataset, where one is named.
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
