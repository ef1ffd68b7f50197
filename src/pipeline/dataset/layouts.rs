//! Folders whose layout is recognised without a descriptor, and what all layouts share.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::channels::Accept;
use super::pattern::{self, Pattern, visible_names};
use super::{
    Case, Copies, Dataset, LabelSource, Layout, Structure, descriptor, json_layouts, structures,
};
use crate::arrays::formats::{case_name, endings_in_words, is_volume_name};
use crate::error::{Error, Result};

/// What was found under a root.
pub(super) struct Found {
    pub cases: Vec<Case>,
    /// Empty when their names are not known yet.
    pub structures: Vec<Structure>,
    pub unpaired: Vec<PathBuf>,
}

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

/// A dataset of a folder, named after it; the layouts fill in what they know.
pub(super) fn of_folder(root: &Path, layout: Layout, found: Found) -> Dataset {
    let full = fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    let name = full.file_name().map_or_else(
        || "dataset".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    Dataset {
        name,
        root: root.to_path_buf(),
        layout,
        licence: None,
        description: None,
        structures: found.structures,
        ignore: None,
        cases: found.cases,
        test: Vec::new(),
        unpaired_labels: found.unpaired,
        copies: Copies::default(),
    }
}

/// What every layout needs in the end: cases sorted by id, test cases that exist, known structures.
/// `source` is the file or folder to name in errors.
pub(super) fn finished(mut dataset: Dataset, source: &Path) -> Result<Dataset> {
    if dataset.cases.is_empty() {
        return Err(Error::file(
            source,
            format!(
                "describes no cases: no image was found under {}; expected {} files where the layout puts images",
                dataset.root.display(),
                endings_in_words()
            ),
        ));
    }
    dataset
        .cases
        .sort_by(|a, b| (&a.id, &a.image).cmp(&(&b.id, &b.image)));
    dataset.test.sort();
    dataset.test.dedup();
    for id in &dataset.test {
        // A misspelt id would let a test case slip into training.
        if !dataset.cases.iter().any(|case| case.id == *id) {
            return Err(Error::file(
                source,
                format!(
                    "the test set names case '{id}', but there is no such case among the {} found; \
                     correct the id or add the case",
                    dataset.cases.len()
                ),
            ));
        }
    }
    for index in 0..dataset.cases.len() {
        // Test cases often come without labels; for training cases a missing file is a problem.
        let absent =
            matches!(&dataset.cases[index].labels, LabelSource::Map(path) if !path.exists());
        if absent && dataset.is_test(&dataset.cases[index].id) {
            dataset.cases[index].labels = LabelSource::None;
        }
    }
    let labelled = dataset
        .cases
        .iter()
        .any(|case| case.labels != LabelSource::None);
    if dataset.structures.is_empty() && labelled {
        dataset.structures = structures::scan(&dataset.root, &dataset.cases)?;
        dataset
            .structures
            .retain(|structure| Some(structure.value) != dataset.ignore);
    }
    let named = |value: u16| dataset.structures.iter().find(|s| s.value == value);
    if let Some(taken) = dataset.ignore.and_then(named) {
        return Err(Error::file(
            source,
            format!(
                "the value {} is both ignored and structure '{}'; give voxels that are ignored a value of \
                 their own",
                taken.value, taken.name
            ),
        ));
    }
    Ok(dataset)
}

/// Cases by a pattern for images and one for labels. With masks per structure, `named` says which are
/// wanted; if it is empty, all are, numbered from 1 in alphabetical order over all cases.
pub(super) fn find_by_pattern(
    root: &Path,
    images: &Pattern,
    labels: Option<&Pattern>,
    named: Vec<Structure>,
) -> Result<Found> {
    let mut images = images.cases(root)?;
    let Some(labels) = labels else {
        let cases = images
            .into_iter()
            .map(|(id, image)| unlabelled(id, image))
            .collect();
        return Ok(Found {
            cases,
            structures: named,
            unpaired: Vec::new(),
        });
    };
    if labels.per_structure() {
        return find_masks(root, images, labels, named);
    }
    // Labels may lie among the images and fit their pattern too: `a.nii.gz` and `a_seg.nii.gz`.
    let label_paths: HashSet<PathBuf> =
        images.iter().map(|(id, _)| labels.path(root, id)).collect();
    images.retain(|(id, image)| !label_paths.contains(image) || *image == labels.path(root, id));
    let ids: HashSet<&str> = images.iter().map(|(id, _)| id.as_str()).collect();
    let image_paths: HashSet<&PathBuf> = images.iter().map(|(_, image)| image).collect();
    let mut unpaired = pattern::unpaired(root, labels, &ids);
    unpaired.retain(|path| !image_paths.contains(path));
    let cases = images
        .iter()
        .map(|(id, image)| Case {
            labels: LabelSource::Map(labels.path(root, id)),
            ..unlabelled(id.clone(), image.clone())
        })
        .collect();
    Ok(Found {
        cases,
        structures: named,
        unpaired,
    })
}

/// [`find_by_pattern`] with a mask per structure.
fn find_masks(
    root: &Path,
    images: Vec<(String, PathBuf)>,
    labels: &Pattern,
    named: Vec<Structure>,
) -> Result<Found> {
    let masks = images
        .iter()
        .map(|(id, _)| labels.structures(root, id))
        .collect::<Result<Vec<_>>>()?;
    let structures = match named.is_empty() {
        true => numbered(root, masks.iter().flatten().map(|(name, _)| name.as_str()))?,
        false => named,
    };
    let value_of: BTreeMap<&str, u16> = structures
        .iter()
        .map(|s| (s.name.as_str(), s.value))
        .collect();
    let cases = images
        .into_iter()
        .zip(&masks)
        .map(|((id, image), masks)| {
            let mut files: Vec<(u16, PathBuf)> = masks
                .iter()
                .filter_map(|(name, path)| Some((*value_of.get(name.as_str())?, path.clone())))
                .collect();
            files.sort();
            let labels = if files.is_empty() {
                LabelSource::None
            } else {
                LabelSource::PerStructure(files)
            };
            Case {
                labels,
                ..unlabelled(id, image)
            }
        })
        .collect();
    Ok(Found {
        cases,
        structures,
        unpaired: Vec::new(),
    })
}

/// Structures of these names, numbered from 1 in alphabetical order.
fn numbered<'a>(root: &Path, names: impl Iterator<Item = &'a str>) -> Result<Vec<Structure>> {
    let names: BTreeSet<&str> = names.collect();
    if names.len() >= usize::from(u16::MAX) {
        return Err(Error::file(
            root,
            format!(
                "{} different structures; at most {} can be told apart",
                names.len(),
                u16::MAX - 1
            ),
        ));
    }
    let numbered = (1..).zip(names).map(|(value, name)| Structure {
        value,
        name: name.to_owned(),
    });
    Ok(numbered.collect())
}

pub(super) fn unlabelled(id: String, image: PathBuf) -> Case {
    Case {
        patient: id.clone(),
        id,
        image,
        labels: LabelSource::None,
    }
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
