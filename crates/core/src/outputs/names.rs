//! Output paths of label maps, one distinct name per input.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::links::leads_out;
use super::sidecar::read_sidecar;
use crate::dataset::case_names::case_paths;
use ctseg_base::atomic_file::parent_of;
use ctseg_base::{Error, Result};
use ctseg_image::formats::{file_stem, is_volume_name};

/// One input volume and the path of its label map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredictCase {
    pub input: PathBuf,
    pub output: PathBuf,
    /// Why it cannot be segmented, if that is known in advance.
    pub refused: Option<String>,
}

impl PredictCase {
    pub fn new(input: PathBuf, output: PathBuf) -> Self {
        Self {
            input,
            output,
            refused: None,
        }
    }
}

/// The label map's path for each input, and the output folder: `output` itself if it is a file name and there is one
/// input, otherwise a file in the folder `output`, named after the case ([`case_paths`]). Inputs whose names differ
/// only in the extension are refused. Label maps of earlier versions keep their names.
///
/// # Errors
/// One output file for several inputs; a label map that would overwrite its input.
pub fn plan_outputs(inputs: &[PathBuf], output: &Path) -> Result<(Vec<PredictCase>, PathBuf)> {
    if is_volume_name(output) && !output.is_dir() {
        let [input] = inputs else {
            return Err(Error::usage(format!(
                "-o {}: is a single file, but there are {} volumes; expected a folder",
                output.display(),
                inputs.len()
            )));
        };
        refuse_same_file(input, output)?;
        let case = PredictCase::new(input.clone(), output.to_path_buf());
        return Ok((vec![case], parent_of(output).to_path_buf()));
    }
    let mut names = case_paths(inputs);
    let used: BTreeSet<PathBuf> = names.iter().cloned().collect();
    for (name, input) in names.iter_mut().zip(inputs) {
        let before = name_before(input).filter(|before| !used.contains(Path::new(before)));
        let made_as = |name: &Path| was_made_as(&with_ending(&output.join(name), input), input);
        if let Some(before) = before
            && name.components().count() == 1
            && made_as(Path::new(&before))
            && !made_as(&*name)
        {
            *name = before.into();
        }
    }
    let mut owners: BTreeMap<&PathBuf, Vec<&PathBuf>> = BTreeMap::new();
    for (name, input) in names.iter().zip(inputs) {
        owners.entry(name).or_default().push(input);
    }
    let mut cases = Vec::with_capacity(inputs.len());
    for (name, input) in names.iter().zip(inputs) {
        let (folder, output) = (output, with_ending(&output.join(name), input));
        refuse_same_file(input, &output)?;
        let others = owners[name].iter();
        let other = others.copied().find(|other| *other != input);
        let refused = match other {
            Some(other) => Some(format!(
                "its label map would have the same name as that of {}; rename one of the two, or predict them into separate folders",
                other.display()
            )),
            None => refused_link(folder, name),
        };
        cases.push(PredictCase {
            refused,
            ..PredictCase::new(input.clone(), output)
        });
    }
    Ok((cases, output.to_path_buf()))
}

/// Why a case is refused whose folder below `output` is a link to another place.
fn refused_link(output: &Path, name: &Path) -> Option<String> {
    let folder = name.parent()?;
    leads_out(output, folder).then(|| {
        format!(
            "its label map would be written outside the output folder, because {} is a link; remove the link, or choose another -o",
            output.join(folder).display()
        )
    })
}

/// A case's path with the extension of its input, or `.nii.gz` if the input does not have that of a volume.
fn with_ending(case: &Path, input: &Path) -> PathBuf {
    let ending = file_stem(input).zip(input.file_name());
    let ending = ending.and_then(|(stem, name)| name.as_bytes().get(stem.len()..));
    let mut name: OsString = case.as_os_str().to_owned();
    name.push(OsString::from_vec(ending.unwrap_or(b".nii.gz").to_vec()));
    name.into()
}

/// The case's name in versions that removed `_0000` from every name and did not recognise TotalSegmentator's dataset.
fn name_before(input: &Path) -> Option<OsString> {
    let stem = file_stem(input)?.as_bytes();
    let case = stem.strip_suffix(b"_0000").filter(|case| !case.is_empty());
    Some(OsString::from_vec(case.unwrap_or(stem).to_vec()))
}

/// Whether the label map exists and was made from this input.
fn was_made_as(label_map: &Path, input: &Path) -> bool {
    let same = |made: PathBuf| match (made.canonicalize(), input.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    read_sidecar(label_map).is_some_and(|sidecar| same(sidecar.input))
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
    use std::ffi::OsStr;

    use super::*;

    /// The label maps' paths below `out`, and whether each is refused.
    fn planned(inputs: &[&str]) -> Vec<(String, bool)> {
        let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
        let (cases, folder) = plan_outputs(&inputs, Path::new("out")).unwrap();
        assert_eq!(folder, Path::new("out"));
        let name = |case: PredictCase| {
            let name = case.output.strip_prefix("out").unwrap();
            (name.display().to_string(), case.refused.is_some())
        };
        cases.into_iter().map(name).collect()
    }

    fn rows(rows: &[(&str, bool)]) -> Vec<(String, bool)> {
        rows.iter()
            .map(|(name, refused)| ((*name).to_owned(), *refused))
            .collect()
    }

    #[test]
    fn extensions_are_kept_and_only_clashing_pairs_are_refused() {
        let inputs = [
            "a/x.NII",
            "noname",
            "b.nii",
            "b.nii.gz",
            "y_0000.nii.gz",
            "x.mha",
        ];
        let expected = [
            ("x.NII", false),
            ("noname.nii.gz", false),
            ("b.nii", true),
            ("b.nii.gz", true),
            ("y.nii.gz", false),
            ("x.mha.nii.gz", false),
        ];
        assert_eq!(planned(&inputs), rows(&expected));
        let (cases, _) = plan_outputs(&inputs.map(PathBuf::from), Path::new("out")).unwrap();
        let refused = cases[3].refused.as_deref().unwrap_or_default();
        assert!(refused.contains("same name as that of b.nii;"), "{refused}");
        // Neither is nnU-Net's first channel.
        let both = ["c_0000.nii.gz", "c.nii"];
        assert_eq!(
            planned(&both),
            rows(&[("c_0000.nii.gz", false), ("c.nii", false)])
        );
    }

    #[test]
    fn a_case_whose_folder_is_a_link_to_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["in/a/p", "in/b/p", "out", "elsewhere"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::os::unix::fs::symlink(at("elsewhere"), at("out/a")).unwrap();
        let inputs = ["in/a/p/ct.nii", "in/b/p/ct.nii"].map(at);
        let (cases, _) = plan_outputs(&inputs, &at("out")).unwrap();
        assert_eq!(cases[0].output, at("out/a/p/ct.nii"));
        let refused = cases[0].refused.as_deref().unwrap_or_default();
        assert!(refused.contains("outside the output folder"), "{refused}");
        assert_eq!(cases[1].refused, None);
    }

    #[test]
    fn names_of_any_bytes_are_kept() {
        let name = OsStr::from_bytes(b"M\xfcller.nii.gz");
        let (cases, _) = plan_outputs(&[Path::new("in").join(name)], Path::new("out")).unwrap();
        assert_eq!(cases[0].output, Path::new("out").join(name));
    }

    #[test]
    fn label_maps_of_earlier_versions_keep_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("s0001")).unwrap();
        let inputs = ["v_0000.nii.gz", "v_0001.nii.gz", "s0001/ct.nii.gz"].map(at);
        for input in &inputs {
            std::fs::write(input, "").unwrap();
        }
        let out = at("out");
        let planned = |input: &PathBuf| {
            let (cases, _) = plan_outputs(std::slice::from_ref(input), &out).unwrap();
            let name = cases[0].output.file_name().unwrap();
            name.to_str().unwrap().to_owned()
        };
        assert_eq!(planned(&inputs[0]), "v_0000.nii.gz");
        assert_eq!(planned(&inputs[2]), "s0001.nii.gz");
        let sidecar = |input: &Path| {
            serde_json::json!({
                "input": input, "input_sha256": "input", "model": "", "model_sha256": "model",
                "ctseg_version": "0.1.0", "device": "", "shape": [1, 1, 1],
                "spacing_mm": [1.0, 1.0, 1.0], "orientation": "", "notes": [], "volumes_ml": {},
                "structures": {}, "seconds": 1.0, "peak_memory_mb": null,
                "cascade": {"roi": null, "roi_share": null, "notes": [], "seconds": {}},
            })
        };
        std::fs::create_dir_all(&out).unwrap();
        std::fs::write(out.join("v.json"), sidecar(&inputs[0]).to_string()).unwrap();
        std::fs::write(out.join("ct.json"), sidecar(&inputs[2]).to_string()).unwrap();
        assert_eq!(planned(&inputs[0]), "v.nii.gz");
        assert_eq!(planned(&inputs[2]), "ct.nii.gz");
        // A label map of another input does not count.
        std::fs::write(out.join("v.json"), sidecar(&inputs[1]).to_string()).unwrap();
        assert_eq!(planned(&inputs[0]), "v_0000.nii.gz");
    }
}
