//! Which volumes a prediction's arguments name, and where each label map goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::arrays::nifti::{case_name, is_nifti_name};
use crate::error::{Error, Result};
use crate::files::parent_of;

/// One volume and where its label map goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredictCase {
    pub input: PathBuf,
    pub output: PathBuf,
}

/// The files that arguments stand for: a file, a folder's volumes, a glob, or `@list` with one path per
/// line; each once, in order.
///
/// # Errors
/// An argument that stands for nothing.
pub fn expand_inputs(arguments: &[String]) -> Result<Vec<PathBuf>> {
    let mut inputs = Vec::new();
    for argument in arguments {
        let before = inputs.len();
        expand_one(argument, &mut inputs)?;
        if inputs.len() == before {
            return Err(Error::invalid(format!(
                "{argument}: no volume found; expected .nii or .nii.gz files, a folder or pattern of them, or @list"
            )));
        }
    }
    let mut seen = std::collections::HashSet::new();
    inputs.retain(|path| seen.insert(path.clone()));
    Ok(inputs)
}

fn expand_one(argument: &str, inputs: &mut Vec<PathBuf>) -> Result<()> {
    let path = Path::new(argument);
    if let Some(list) = argument.strip_prefix('@') {
        let text = std::fs::read_to_string(list).map_err(Error::io(list, "read the list"))?;
        let lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        inputs.extend(lines.map(PathBuf::from));
    } else if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(Error::io(path, "read the folder"))?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| file.is_file() && is_nifti_name(file))
            .collect();
        files.sort();
        inputs.extend(files);
    } else if !path.exists() && argument.contains(['*', '?', '[']) {
        let paths = glob::glob(argument)
            .map_err(|error| Error::invalid(format!("{argument}: not a file pattern: {error}")))?;
        inputs.extend(
            paths
                .filter_map(|path| path.ok())
                .filter(|file| file.is_file()),
        );
    } else {
        inputs.push(path.to_path_buf());
    }
    Ok(())
}

/// Where each input's label map goes: `output` itself if it names a file and there is one input,
/// otherwise the folder `output`, under the input's own name, or, where inputs in several folders share
/// a name (`s0001/ct.nii.gz`, `s0002/ct.nii.gz`), under the name of its folder.
///
/// # Errors
/// Names that clash all the same, or a label map that would take the place of its input.
pub fn plan_outputs(inputs: &[PathBuf], output: &Path) -> Result<(Vec<PredictCase>, PathBuf)> {
    if is_nifti_name(output) && !output.is_dir() {
        let [input] = inputs else {
            return Err(Error::usage(format!(
                "-o {}: one file for {} volumes; expected a folder",
                output.display(),
                inputs.len()
            )));
        };
        refuse_same_file(input, output)?;
        let case = PredictCase {
            input: input.clone(),
            output: output.to_path_buf(),
        };
        return Ok((vec![case], parent_of(output).to_path_buf()));
    }
    let own: Vec<String> = inputs.iter().map(|input| file_name(input)).collect();
    let mut names: BTreeMap<String, &PathBuf> = BTreeMap::new();
    let mut cases = Vec::new();
    for (input, own_name) in inputs.iter().zip(&own) {
        let shared = own.iter().filter(|other| *other == own_name).count() > 1;
        let folder = input.parent().and_then(Path::file_name);
        let name = match folder {
            Some(folder) if shared => format!("{}.nii.gz", folder.to_string_lossy()),
            _ => own_name.clone(),
        };
        if let Some(other) = names.insert(case_name(Path::new(&name)).unwrap_or_default(), input) {
            return Err(Error::file(
                input,
                format!(
                    "its label map would have the same name as that of {}: predict them into two folders",
                    other.display()
                ),
            ));
        }
        let output = output.join(name);
        refuse_same_file(input, &output)?;
        cases.push(PredictCase {
            input: input.clone(),
            output,
        });
    }
    Ok((cases, output.to_path_buf()))
}

/// The input's own file name, with `.nii.gz` where it is not that of a NIfTI file.
fn file_name(input: &Path) -> String {
    let name = input
        .file_name()
        .unwrap_or(input.as_os_str())
        .to_string_lossy();
    if is_nifti_name(input) {
        name.into_owned()
    } else {
        format!("{name}.nii.gz")
    }
}

fn refuse_same_file(input: &Path, output: &Path) -> Result<()> {
    match (input.canonicalize(), output.canonicalize()) {
        (Ok(a), Ok(b)) if a == b => Err(Error::file(
            input,
            "its label map would overwrite it; choose another -o",
        )),
        _ => Ok(()),
    }
}
