//! Where each input's label map goes, under a name of its own.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use ctseg_base::atomic_file::parent_of;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{case_name, is_volume_name, volume_endings};

/// One volume and where its label map goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredictCase {
    pub input: PathBuf,
    pub output: PathBuf,
}

/// Where each input's label map goes, and the folder of them all: `output` itself if it names a file and there is
/// one input, otherwise the folder `output`, under the input's own name, without the `_0000` that nnU-Net puts
/// behind a case's first channel. Inputs that share a name (`s0001/ct.nii.gz`, `s0002/ct.nii.gz`) go under the names
/// of their folders, and where those are the same too, into the folders in which they lie, as far as these differ.
///
/// # Errors
/// Names that clash all the same, second channels, a label map that would take the place of its input.
pub fn plan_outputs(inputs: &[PathBuf], output: &Path) -> Result<(Vec<PredictCase>, PathBuf)> {
    let channels: HashSet<PathBuf> = inputs.iter().cloned().collect();
    for input in inputs {
        refuse_second_channel(input, &channels)?;
    }
    if is_volume_name(output) && !output.is_dir() {
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
    let mut cases = Vec::new();
    let mut taken: BTreeMap<PathBuf, &PathBuf> = BTreeMap::new();
    for (input, name) in inputs.iter().zip(names(inputs)) {
        if let Some(other) = taken.insert(case_of(&name), input) {
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

/// The path of each input's label map below the output folder.
fn names(inputs: &[PathBuf]) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = inputs.iter().map(|input| own_name(input)).collect();
    let mut groups: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        groups.entry(case_of(name)).or_default().push(index);
    }
    let shared: Vec<Vec<usize>> = groups
        .into_values()
        .filter(|group| group.len() > 1)
        .collect();
    let kept: HashSet<PathBuf> = names.iter().map(|name| case_of(name)).collect();
    let mut of_folders = BTreeMap::new();
    for index in shared.iter().flatten() {
        *of_folders.entry(folder_name(&inputs[*index])).or_insert(0) += 1;
    }
    for group in shared {
        let is_free = |index: &usize| {
            let name = folder_name(&inputs[*index]);
            let alone = of_folders.get(&name) == Some(&1);
            name.is_some_and(|name| alone && !kept.contains(Path::new(&name)))
        };
        if group.iter().all(is_free) {
            for index in group {
                let folder = folder_name(&inputs[index]).unwrap_or_default();
                names[index] = PathBuf::from(format!("{folder}.nii.gz"));
            }
        } else {
            let folders: Vec<PathBuf> = group.iter().map(|i| real_folder(&inputs[*i])).collect();
            let common = common_folder(&folders);
            for (index, folder) in group.into_iter().zip(&folders) {
                let own = folder.strip_prefix(&common).unwrap_or(Path::new(""));
                names[index] = own.join(&names[index]);
            }
        }
    }
    names
}

/// The path without a volume's ending: label maps that differ in nothing else share their other files.
fn case_of(name: &Path) -> PathBuf {
    name.with_file_name(case_name(name).unwrap_or_default())
}

/// The input's own file name, with `.nii.gz` where it is not that of a volume, and without a channel's number.
fn own_name(input: &Path) -> PathBuf {
    let name = input
        .file_name()
        .unwrap_or(input.as_os_str())
        .to_string_lossy();
    let Some(case) = case_name(input) else {
        return PathBuf::from(format!("{name}.nii.gz"));
    };
    let ending = &name[case.len()..];
    let plain = match channel(&case) {
        Some((plain, 0)) => plain,
        _ => case.as_str(),
    };
    PathBuf::from(format!("{plain}{ending}"))
}

/// A case's name and the number of its channel, in nnU-Net's way of writing them: `case_0000`.
fn channel(name: &str) -> Option<(&str, u16)> {
    let (case, number) = name.rsplit_once('_')?;
    let digits = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !case.is_empty()).then(|| Some((case, number.parse().ok()?)))?
}

/// Models take one channel, the CT. Whether a number is a channel's, shows the first channel beside it.
fn refuse_second_channel(input: &Path, inputs: &HashSet<PathBuf>) -> Result<()> {
    let name = case_name(input).unwrap_or_default();
    let Some((case, number @ 1..)) = channel(&name) else {
        return Ok(());
    };
    let first = (volume_endings().iter().rev())
        .map(|ending| input.with_file_name(format!("{case}_0000{ending}")))
        .find(|first| inputs.contains(first) || first.exists());
    match first {
        None => Ok(()),
        Some(first) => Err(Error::file(
            input,
            format!(
                "is channel {number} of the case of {}, and models take one, the CT; leave it out, or rename it if \
                 it is a case of its own",
                first.display()
            ),
        )),
    }
}

/// The name of the folder that the input lies in.
fn folder_name(input: &Path) -> Option<String> {
    let folder = input.parent().and_then(Path::file_name)?;
    Some(folder.to_string_lossy().into_owned())
}

fn real_folder(input: &Path) -> PathBuf {
    let folder = parent_of(input);
    folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf())
}

/// The folder that all lie in or are.
fn common_folder(folders: &[PathBuf]) -> PathBuf {
    let mut common = folders.first().cloned().unwrap_or_default();
    for folder in folders {
        while !folder.starts_with(&common) && common.pop() {}
    }
    common
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

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(inputs: &[&str]) -> Result<Vec<String>> {
        let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
        let (cases, folder) = plan_outputs(&inputs, Path::new("out"))?;
        assert_eq!(folder, Path::new("out"));
        let name = |case: PredictCase| {
            let name = case.output.strip_prefix("out").unwrap().to_path_buf();
            name.display().to_string()
        };
        Ok(cases.into_iter().map(name).collect())
    }

    #[test]
    fn names_are_kept_and_shared_ones_told_apart_by_folders() {
        for (inputs, expected) in [
            (vec!["a/x.nii", "b/y.nii.gz"], vec!["x.nii", "y.nii.gz"]),
            (
                vec!["s1/ct.nii.gz", "s2/ct.nii.gz", "z/other.nii"],
                vec!["s1.nii.gz", "s2.nii.gz", "other.nii"],
            ),
            (
                vec!["p1/s1/ct.nii.gz", "p1/s2/ct.nii.gz", "p2/s1/ct.nii.gz"],
                vec!["p1/s1/ct.nii.gz", "p1/s2/ct.nii.gz", "p2/s1/ct.nii.gz"],
            ),
            // A folder's name that another input has; two names in the same two folders.
            (
                vec!["p/s1/ct.nii", "p/s2/ct.nii", "s1.nii"],
                vec!["s1/ct.nii", "s2/ct.nii", "s1.nii"],
            ),
            (
                vec!["s1/a.nii", "s2/a.nii", "s1/b.nii", "s2/b.nii"],
                vec!["s1/a.nii", "s2/a.nii", "s1/b.nii", "s2/b.nii"],
            ),
            (
                vec!["noname", "x.mha"],
                vec!["noname.nii.gz", "x.mha.nii.gz"],
            ),
        ] {
            assert_eq!(planned(&inputs).unwrap(), expected);
        }
        let error = planned(&["s/a.nii", "s/a.nii.gz"]).unwrap_err().to_string();
        assert!(error.contains("same name"), "{error}");
    }

    #[test]
    fn channels_are_read_as_nnu_net_writes_them() {
        let names = planned(&["case_0000.nii.gz", "x_00000.nii", "y_0007.nii", "_0000.nii"]);
        assert_eq!(
            names.unwrap(),
            ["case.nii.gz", "x_00000.nii", "y_0007.nii", "_0000.nii"]
        );
        let error = planned(&["a/c_0000.nii.gz", "a/c_0001.nii.gz"]);
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("a/c_0001.nii.gz") && error.contains("channel 1"),
            "{error}"
        );
        // In another folder there is no first channel.
        assert!(planned(&["a/c_0000.nii.gz", "b/c_0001.nii.gz"]).is_ok());
        let error = planned(&["case_0000.nii.gz", "case.nii"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("same name"), "{error}");
    }
}
