//! Folders whose layout is recognised without a descriptor, and what all layouts share.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::discovered::Accept;
use super::discovered::{Found, find_by_pattern, finished, of_folder, unlabelled};
use super::path_pattern::{Pattern, visible_names};
use super::{Case, Dataset, LabelSource, Layout, descriptor, json_layouts};
use ctseg_base::{Error, Result};
use ctseg_image::formats::{case_name, is_volume_name};

impl Dataset {
    /// Opens a descriptor (`.toml`) or a folder in one of the known [`Layout`]s.
    ///
    /// Only names are read, unless no structure names are known: then every label map is scanned and its
    /// values are named `structure_<value>`. Errors if the layout is unknown or not supported, a
    /// descriptor or `dataset.json` is malformed, or there is no case.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_in(path, None)
    }

    /// [`Dataset::open`] for a descriptor whose paths are relative to `data_root` instead of the
    /// descriptor's own folder. A folder is opened as it is.
    pub fn open_in(path: &Path, data_root: Option<&Path>) -> Result<Self> {
        Self::open_accepting(path, data_root, Accept::OneChannel)
    }

    pub(super) fn open_accepting(
        path: &Path,
        data_root: Option<&Path>,
        accept: Accept,
    ) -> Result<Self> {
        let kind = std::fs::metadata(path).map_err(Error::io(path, "open the dataset"))?;
        if kind.is_dir() {
            return open_folder(path, accept);
        }
        match path.extension() {
            Some(extension) if extension.eq_ignore_ascii_case("toml") => {
                descriptor::open(path, data_root)
            }
            _ => Err(Error::file(
                path,
                "not a dataset; expected a folder or a descriptor whose name ends in .toml",
            )),
        }
    }
}

/// Opens a folder by the layout it has.
pub(super) fn open_folder(root: &Path, accept: Accept) -> Result<Dataset> {
    let own_descriptor = root.join("dataset.toml");
    if own_descriptor.is_file() {
        return descriptor::open(&own_descriptor, None);
    }
    let json = root.join("dataset.json");
    if json.is_file() {
        return json_layouts::open(root, &json, accept);
    }
    if root.join("images").is_dir() && root.join("labels").is_dir() {
        return open_plain(root);
    }
    let names = visible_names(root)?;
    let is_case = |name: &String| {
        let case = root.join(name);
        case.join("ct.nii.gz").is_file() && case.join("segmentations").is_dir()
    };
    if names.iter().any(is_case) {
        return open_total_segmentator(root);
    }
    Err(unknown_layout(root, &names))
}

fn unknown_layout(root: &Path, names: &[String]) -> Error {
    let found = match names {
        [] => "nothing".to_owned(),
        few if few.len() <= 4 => few.join(", "),
        many => format!("{}, … ({} entries)", many[..4].join(", "), many.len()),
    };
    Error::file(
        root,
        format!(
            "no known dataset layout: looked for dataset.toml (descriptor), dataset.json (nnU-Net v2 \
             raw, Medical Segmentation Decathlon), images/ with labels/, and <case>/ct.nii.gz with \
             <case>/segmentations/ (TotalSegmentator); found {found}; describe other layouts in a \
             descriptor (.toml)"
        ),
    )
}

/// `images/` and `labels/` with the same names, whichever of `.nii` and `.nii.gz` each has.
fn open_plain(root: &Path) -> Result<Dataset> {
    let list = |folder: &str| -> Result<Vec<(String, PathBuf)>> {
        let folder = root.join(folder);
        let paths = visible_names(&folder)?
            .into_iter()
            .map(|name| folder.join(name));
        let volumes = paths.filter(|path| path.is_file() && is_volume_name(path));
        Ok(volumes
            .filter_map(|path| Some((case_name(&path)?, path)))
            .collect())
    };
    let images = list("images")?;
    let mut labels: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (id, path) in list("labels")? {
        labels.entry(id).or_default().push(path);
    }
    let ids: HashSet<String> = images.iter().map(|(id, _)| id.clone()).collect();
    let cases = images
        .into_iter()
        .map(|(id, image)| {
            let own_name = image.file_name().map(|name| root.join("labels").join(name));
            let expected = own_name.unwrap_or_else(|| root.join("labels").join(&id));
            let there = labels.get(&id).filter(|paths| !paths.contains(&expected));
            let path = there
                .and_then(|paths| paths.first().cloned())
                .unwrap_or(expected);
            Case {
                labels: LabelSource::Map(path),
                ..unlabelled(id, image)
            }
        })
        .collect();
    let unpaired = labels
        .into_iter()
        .filter(|(id, _)| !ids.contains(id))
        .flat_map(|(_, paths)| paths)
        .collect();
    let found = Found {
        cases,
        structures: Vec::new(),
        unpaired,
    };
    finished(of_folder(root, Layout::Plain, found), root)
}

/// One folder per case, one mask per structure; `meta.csv`, where there is one, names the test cases.
fn open_total_segmentator(root: &Path) -> Result<Dataset> {
    let pattern = |text| Pattern::for_labels(text).map_err(Error::invalid);
    let images = pattern("{case}/ct.nii.gz")?;
    let masks = pattern("{case}/segmentations/{structure}.nii.gz")?;
    let found = find_by_pattern(root, &images, Some(&masks), Vec::new())?;
    let mut dataset = of_folder(root, Layout::TotalSegmentator, found);
    let table = root.join("meta.csv");
    if table.is_file() {
        // The table lists the whole published set; part of it is a dataset too.
        dataset.test = sets_of_meta(&table)?
            .into_iter()
            .filter(|(id, set)| set == "test" && dataset.cases.iter().any(|case| case.id == *id))
            .map(|(id, _)| id)
            .collect();
    }
    finished(dataset, root)
}

/// Ids and what they are for (`train`, `val`, `test`) in TotalSegmentator's `meta.csv` (semicolons; columns
/// `image_id`, `split`).
pub(super) fn sets_of_meta(table: &Path) -> Result<Vec<(String, String)>> {
    let unreadable = |error: csv::Error| {
        Error::file(
            table,
            format!("cannot be read as a table separated by semicolons: {error}"),
        )
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(b';')
        .flexible(true)
        .from_path(table)
        .map_err(unreadable)?;
    let header = reader.headers().map_err(unreadable)?.clone();
    // Spreadsheets like to put a byte order mark before the first column's name.
    let column = |name: &str| {
        header
            .iter()
            .position(|h| h.trim_start_matches('\u{feff}') == name)
    };
    let (Some(id), Some(split)) = (column("image_id"), column("split")) else {
        return Err(Error::file(
            table,
            "has no columns image_id and split; expected TotalSegmentator's meta.csv (separated by \
             semicolons): remove the file if it is another",
        ));
    };
    let mut sets = Vec::new();
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        if let (Some(id), Some(set)) = (record.get(id), record.get(split)) {
            sets.push((id.to_owned(), set.to_owned()));
        }
    }
    Ok(sets)
}
