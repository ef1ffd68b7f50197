//! Opens datasets: descriptors, and folders whose layout is recognised.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::case_names::{CaseNames, TOTAL_SEGMENTATOR};
use super::discovered::Accept;
use super::discovered::{Found, find_by_pattern, finished, of_folder, unlabelled};
use super::path_pattern::{Pattern, visible_names};
use super::{Case, Dataset, LabelSource, Layout, descriptor, json_layouts};
use ctseg_base::text::os_text::{from_text, to_text};
use ctseg_base::{Error, Result, regular_file};
use ctseg_image::formats::{case_name, foreign_files, is_volume_name};

impl Dataset {
    /// Opens a descriptor (`.toml`) or a folder in one of the known [`Layout`]s.
    ///
    /// Only names are read, unless no structure names are known: then every label map is scanned and its
    /// values are named `structure_<value>`. Fails if the layout is unknown or not supported, a
    /// descriptor or `dataset.json` is malformed, or there are no cases.
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

/// The layout detected in a folder.
enum DetectedLayout {
    /// A `dataset.toml`.
    Descriptor(PathBuf),
    /// A `dataset.json`.
    Json(PathBuf),
    Plain,
    TotalSegmentator,
}

/// The layout of a folder; none if it has no known one.
fn detect_layout(root: &Path) -> Result<Option<DetectedLayout>> {
    let own_descriptor = root.join("dataset.toml");
    if own_descriptor.is_file() {
        return Ok(Some(DetectedLayout::Descriptor(own_descriptor)));
    }
    let json = root.join("dataset.json");
    if json.is_file() {
        return Ok(Some(DetectedLayout::Json(json)));
    }
    if root.join("images").is_dir() && root.join("labels").is_dir() {
        return Ok(Some(DetectedLayout::Plain));
    }
    let is_case = |name: &String| is_total_segmentator_case(&root.join(from_text(name)));
    let any = visible_names(root)?.iter().any(is_case);
    Ok(any.then_some(DetectedLayout::TotalSegmentator))
}

/// Whether a folder has a layout that [`Dataset::open`] knows.
pub(super) fn has_known_layout(root: &Path) -> Result<bool> {
    Ok(detect_layout(root)?.is_some())
}

/// Whether a folder is a case of TotalSegmentator's dataset.
fn is_total_segmentator_case(folder: &Path) -> bool {
    let (image, masks) = TOTAL_SEGMENTATOR;
    folder.join(image).is_file() && folder.join(masks).is_dir()
}

/// Opens a folder in its detected layout.
pub(super) fn open_folder(root: &Path, accept: Accept) -> Result<Dataset> {
    match detect_layout(root)? {
        Some(DetectedLayout::Descriptor(descriptor)) => descriptor::open(&descriptor, None),
        Some(DetectedLayout::Json(json)) => json_layouts::open(root, &json, accept),
        Some(DetectedLayout::Plain) => open_plain(root),
        Some(DetectedLayout::TotalSegmentator) => open_total_segmentator(root),
        None => Err(unknown_layout(root, &visible_names(root)?)),
    }
}

/// The images of a dataset; labels are not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetImages {
    pub layout: Layout,
    pub files: Vec<PathBuf>,
    /// Folders in which every volume is an image.
    pub folders: Vec<PathBuf>,
}

impl DatasetImages {
    /// The images of a dataset's folder, or of one case's folder in TotalSegmentator's layout; none if the layout is
    /// unknown. nnU-Net's folders are recognised without a `dataset.json`, too.
    ///
    /// # Errors
    /// A descriptor or `dataset.json` that cannot be read, or has several channels and no CT.
    pub fn of_folder(root: &Path) -> Result<Option<Self>> {
        let of = |layout, files, folders| {
            Some(Self {
                layout,
                files,
                folders,
            })
        };
        if is_total_segmentator_case(root) {
            let image = root.join(TOTAL_SEGMENTATOR.0);
            return Ok(of(Layout::TotalSegmentator, vec![image], Vec::new()));
        }
        let below = |names: [&str; 2]| -> Vec<PathBuf> {
            let folders = names.map(|name| root.join(name)).into_iter();
            folders.filter(|folder| folder.is_dir()).collect()
        };
        match detect_layout(root)? {
            Some(DetectedLayout::Descriptor(descriptor)) => {
                Self::of_descriptor(&descriptor, None).map(Some)
            }
            Some(DetectedLayout::Json(json)) => {
                let folders = below(["imagesTr", "imagesTs"]);
                let Some(listed) = json_layouts::images(root, &json, &folders)? else {
                    return Ok(None);
                };
                Ok(match listed.files {
                    Some(files) => of(listed.layout, files, Vec::new()),
                    None if folders.is_empty() => None,
                    None => of(listed.layout, Vec::new(), folders),
                })
            }
            Some(DetectedLayout::Plain) => {
                Ok(of(Layout::Plain, Vec::new(), vec![root.join("images")]))
            }
            // Its cases are recognised one by one.
            Some(DetectedLayout::TotalSegmentator) => Ok(None),
            None if below(["labelsTr", "labelsTs"]).is_empty() => Ok(None),
            None => {
                let images = of(Layout::NnUnet, Vec::new(), below(["imagesTr", "imagesTs"]));
                Ok(images.filter(|images| !images.folders.is_empty()))
            }
        }
    }

    /// The images of a descriptor's dataset; see [`Dataset::open_in`].
    pub fn of_descriptor(descriptor: &Path, data_root: Option<&Path>) -> Result<Self> {
        Ok(Self {
            layout: Layout::Descriptor,
            files: descriptor::images(descriptor, data_root)?,
            folders: Vec::new(),
        })
    }
}

fn unknown_layout(root: &Path, names: &[String]) -> Error {
    if let Some(others) = foreign_files(root) {
        return Error::file(
            root,
            format!("no known dataset layout and no volumes; {others}"),
        );
    }
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

/// `images/` and `labels/` with the same names, each ending in `.nii` or `.nii.gz`; a label map may also lack
/// the `_0000` of its image, as in nnU-Net.
fn open_plain(root: &Path) -> Result<Dataset> {
    let list = |folder: &str| -> Result<Vec<PathBuf>> {
        let folder = root.join(folder);
        let names = visible_names(&folder)?;
        let paths = names.iter().map(|name| folder.join(from_text(name)));
        Ok(paths
            .filter(|path| path.is_file() && is_volume_name(path))
            .collect())
    };
    let (images, labels) = (list("images")?, list("labels")?);
    let mut by_stem: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in labels {
        let stem = case_name(&path).unwrap_or_default();
        by_stem.entry(stem).or_default().push(path);
    }
    let mut names = CaseNames::default();
    let mut used = HashSet::new();
    let mut cases = Vec::with_capacity(images.len());
    for image in images {
        let stem = case_name(&image).unwrap_or_default();
        let id = to_text(names.case(&image));
        let own_name = root
            .join("labels")
            .join(image.file_name().unwrap_or_default());
        let found = [&stem, &id]
            .into_iter()
            .find(|name| by_stem.contains_key(*name));
        let paths = found.map(|name| (name.clone(), by_stem[name].clone()));
        let labels = match paths {
            Some((name, paths)) => {
                used.insert(name);
                let same = paths.contains(&own_name);
                let first = paths.into_iter().next().filter(|_| !same);
                first.unwrap_or(own_name)
            }
            None => own_name,
        };
        cases.push(Case {
            // Folds are assigned by patient: with the stem they stay the same as when `_0000` was part of the id.
            patient: stem,
            labels: LabelSource::Map(labels),
            ..unlabelled(id, image)
        });
    }
    let unpaired = by_stem.into_iter().filter(|(stem, _)| !used.contains(stem));
    let unpaired = unpaired.flat_map(|(_, paths)| paths).collect();
    let found = Found {
        cases,
        structures: Vec::new(),
        unpaired,
    };
    finished(of_folder(root, Layout::Plain, found), root)
}

/// One folder per case, one mask per structure; `meta.csv`, if present, names the test cases.
fn open_total_segmentator(root: &Path) -> Result<Dataset> {
    let pattern = |text| Pattern::for_labels(text).map_err(Error::invalid);
    let images = pattern("{case}/ct.nii.gz")?;
    let masks = pattern("{case}/segmentations/{structure}.nii.gz")?;
    let found = find_by_pattern(root, &images, Some(&masks), Vec::new())?;
    let mut dataset = of_folder(root, Layout::TotalSegmentator, found);
    let table = root.join("meta.csv");
    if table.is_file() {
        // The table lists the whole published set; the folder may hold part of it.
        dataset.test = meta_csv_splits(&table)?
            .into_iter()
            .filter(|(id, set)| set == "test" && dataset.cases.iter().any(|case| case.id == *id))
            .map(|(id, _)| id)
            .collect();
    }
    finished(dataset, root)
}

/// Case ids and their split (`train`, `val`, `test`) from TotalSegmentator's `meta.csv` (semicolons; columns
/// `image_id`, `split`).
pub(super) fn meta_csv_splits(table: &Path) -> Result<Vec<(String, String)>> {
    let unreadable = |error: csv::Error| {
        Error::file(
            table,
            format!("not a table separated by semicolons: {error}"),
        )
    };
    let bytes = regular_file::read(table).map_err(Error::io(table, "read"))?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(b';')
        .flexible(true)
        .from_reader(bytes.as_slice());
    let header = reader.headers().map_err(unreadable)?.clone();
    // Some spreadsheets write a byte order mark before the first column's name.
    let column = |name: &str| {
        header
            .iter()
            .position(|h| h.trim_start_matches('\u{feff}') == name)
    };
    let (Some(id), Some(split)) = (column("image_id"), column("split")) else {
        return Err(Error::file(
            table,
            "has no columns image_id and split; expected TotalSegmentator's meta.csv (separated by \
             semicolons): remove the file if it is something else",
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
