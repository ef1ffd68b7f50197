//! Datasets of CT volumes with reference labels: where the files lie, which structures they hold,
//! whether they are sound, how they are split, and how they get into memory.

mod cache;
mod case_check;
mod channels;
mod check;
mod copies;
mod descriptor;
mod folds;
mod json_layouts;
mod layouts;
mod pattern;
mod splits;
mod structures;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::arrays::formats::{VolumeHeader, VolumeImage, read_label_map, read_volume};
use crate::error::{Error, Result};
use crate::values::{Grid, LabelMap, Volume};

pub(in crate::pipeline) use case_check::unknown_values;
pub(in crate::pipeline) use structures::count_values;

use channels::Accept;

pub use cache::{CacheCounts, CaseCache};
pub use channels::Channels;
pub use check::{CaseNote, CaseProblem, CheckDepth, CheckReport};
pub use copies::Copies;
pub use folds::{Split, folds};
pub use splits::NamedSplit;

/// Image and label map must put every voxel at the same place to within this many mm.
pub const GRID_TOLERANCE_MM: f64 = 1e-3;

/// A structure to be segmented and its value in the label maps; 0 is always background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    pub value: u16,
    pub name: String,
}

/// Where the reference labels of a case lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelSource {
    /// There are none: a case for prediction only.
    None,
    /// One label map.
    Map(PathBuf),
    /// One binary mask per structure, ascending by the structure's value; where masks overlap, the
    /// later (higher) value wins.
    PerStructure(Vec<(u16, PathBuf)>),
}

/// One CT volume and its labels. Cases of one patient are never split between training and validation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Case {
    pub id: String,
    pub patient: String,
    pub image: PathBuf,
    pub labels: LabelSource,
}

/// How a dataset's folder is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As a descriptor in TOML says.
    Descriptor,
    /// `images/` and `labels/` with the same file names.
    Plain,
    /// nnU-Net v2 raw: `dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`.
    NnUnet,
    /// Medical Segmentation Decathlon: `dataset.json` that lists the training pairs.
    Decathlon,
    /// TotalSegmentator: `<case>/ct.nii.gz` and `<case>/segmentations/<structure>.nii.gz`.
    TotalSegmentator,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Descriptor => "descriptor",
            Self::Plain => "images + labels",
            Self::NnUnet => "nnU-Net v2 raw",
            Self::Decathlon => "Medical Segmentation Decathlon",
            Self::TotalSegmentator => "TotalSegmentator",
        })
    }
}

/// A dataset as found on disk: names and paths only, no voxels. Cases are sorted by id, structures by
/// value.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub name: String,
    /// The folder that the dataset's files lie in.
    pub root: PathBuf,
    pub layout: Layout,
    pub licence: Option<String>,
    pub description: Option<String>,
    pub structures: Vec<Structure>,
    /// Value of the voxels of which nothing is known: they count in no loss and in no score.
    pub ignore: Option<u16>,
    pub cases: Vec<Case>,
    /// Ids of the cases that are never trained on, sorted.
    pub test: Vec<String>,
    /// Label files that belong to no image; [`Dataset::check`] reports them as problems.
    pub unpaired_labels: Vec<PathBuf>,
    /// What is read instead of the files of `cases`.
    pub copies: Copies,
}

/// A case in memory: image and labels on one grid, and the image file's header.
#[derive(Debug)]
pub struct LoadedCase {
    pub volume: Volume,
    pub labels: LabelMap,
    pub header: VolumeHeader,
    /// Voxels of `volume` that are NaN or infinite.
    pub non_finite: usize,
}

impl LoadedCase {
    /// Bytes that the voxels take in memory.
    pub fn bytes(&self) -> usize {
        self.volume.bytes() + self.labels.bytes()
    }
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

    fn open_accepting(path: &Path, data_root: Option<&Path>, accept: Accept) -> Result<Self> {
        let kind = std::fs::metadata(path).map_err(Error::io(path, "open the dataset"))?;
        if kind.is_dir() {
            return layouts::open_folder(path, accept);
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

    /// Indices of the cases that may be trained on: those with labels that are not in the test set.
    pub fn training_cases(&self) -> Vec<usize> {
        (0..self.cases.len())
            .filter(|index| {
                let case = &self.cases[*index];
                case.labels != LabelSource::None && !self.is_test(&case.id)
            })
            .collect()
    }

    /// Whether the case belongs to the test set.
    pub fn is_test(&self, case: &str) -> bool {
        self.test
            .binary_search_by(|id| id.as_str().cmp(case))
            .is_ok()
    }

    /// Training and validation cases (indices into `cases`) of one of `k` folds; see [`folds`].
    pub fn split(&self, k: usize, fold: usize, seed: u64) -> Result<Split> {
        let candidates = self.training_cases();
        let patients: Vec<_> = candidates
            .iter()
            .map(|index| {
                (
                    self.cases[*index].id.clone(),
                    self.cases[*index].patient.clone(),
                )
            })
            .collect();
        let all = folds(&patients, k, seed)
            .map_err(|error| Error::invalid(format!("dataset '{}': {error}", self.name)))?;
        let chosen = all.get(fold).ok_or_else(|| {
            Error::invalid(format!(
                "dataset '{}': there is no fold {fold}; with k = {k}, folds count from 0 to {}",
                self.name,
                all.len().saturating_sub(1)
            ))
        })?;
        let mut validation: Vec<_> = chosen.iter().map(|index| candidates[*index]).collect();
        validation.sort_unstable();
        let train = candidates
            .into_iter()
            .filter(|index| validation.binary_search(index).is_err())
            .collect();
        Ok(Split { train, validation })
    }

    /// Reads the CT volume of a case, in HU as stored.
    pub fn load_image(&self, case: &Case) -> Result<VolumeImage> {
        self.copies.read(&case.image, read_volume)
    }

    /// Reads the labels of a case into one label map; binary masks are merged, the later value wins. Voxels
    /// of which nothing is known keep their value, [`Dataset::ignore`].
    ///
    /// Errors if the case has no labels, a file cannot be read, or masks do not lie on one grid.
    pub fn load_labels(&self, case: &Case) -> Result<LabelMap> {
        match &case.labels {
            LabelSource::None => Err(Error::file(
                &case.image,
                format!(
                    "case '{}' has no labels in dataset '{}'",
                    case.id, self.name
                ),
            )),
            LabelSource::Map(path) => Ok(self.copies.read(path, read_label_map)?.1),
            LabelSource::PerStructure(files) => structures::merge_masks(files, &self.copies),
        }
    }

    /// `labels` with background where nothing is known.
    pub fn known_labels(&self, mut labels: LabelMap) -> LabelMap {
        if let Some(ignore) = self.ignore {
            let known = |label: u16| if label == ignore { 0 } else { label };
            labels.data.mapv_inplace(known);
        }
        labels
    }

    /// Reads image and labels of a case. Errors also if the two do not lie on one grid, to within
    /// [`GRID_TOLERANCE_MM`].
    pub fn load(&self, case: &Case) -> Result<LoadedCase> {
        let VolumeImage {
            header,
            volume,
            non_finite,
        } = self.load_image(case)?;
        let mut labels = self.load_labels(case)?;
        if let Some(problem) = grid_difference(&labels.grid, &volume.grid) {
            let file = match &case.labels {
                LabelSource::Map(path) => path,
                LabelSource::PerStructure(files) => files.first().map_or(&case.image, |(_, p)| p),
                LabelSource::None => &case.image,
            };
            return Err(Error::file(file, problem));
        }
        labels.grid = volume.grid;
        Ok(LoadedCase {
            volume,
            labels,
            header,
            non_finite,
        })
    }
}

/// In words, how a label map's grid differs from its image's; `None` if they are one grid.
pub(in crate::pipeline) fn grid_difference(labels: &Grid, image: &Grid) -> Option<String> {
    if labels.same_as(image, GRID_TOLERANCE_MM) {
        return None;
    }
    let what = if labels.shape != image.shape {
        "shape".to_owned()
    } else {
        format!(
            "position, by up to {:.3} mm,",
            labels.largest_shift_mm(image)
        )
    };
    Some(format!(
        "the labels differ in {what} from their image: labels {}; image {}; resample the labels onto \
         the image, or correct the header that is wrong",
        grid_in_words(labels),
        grid_in_words(image)
    ))
}

/// Shape and affine for a reader: `128×128×64 voxels of 1×1×2.5 mm, RAS, first voxel at (0, 0, 0) mm`.
fn grid_in_words(grid: &Grid) -> String {
    let join = |values: [f64; 3], by: &str| values.map(|v| rounded(v, 1e4).to_string()).join(by);
    let mut words = format!(
        "{} voxels of {} mm, {}, first voxel at ({}) mm",
        grid.shape.map(|v| v.to_string()).join("×"),
        join(grid.spacing_mm(), "×"),
        grid.orientation(),
        join(grid.world_mm([0.0; 3]), ", ")
    );
    // Rounding of float32 headers is not worth a word; a tilt is.
    let (spacing, orientation) = (grid.spacing_mm(), grid.orientation());
    let tilted = (0..3).any(|axis| {
        let along = grid.affine[orientation.axes[axis]][axis].abs();
        (spacing[axis] - along) > 1e-6 * spacing[axis]
    });
    if tilted {
        let rows = grid.affine.map(|row| {
            let row = row.map(|v| rounded(v, 1e5).to_string());
            format!("[{}]", row.join(" "))
        });
        words += &format!(", affine {}", rows.join(" "));
    }
    words
}

fn rounded(value: f64, steps: f64) -> f64 {
    // Adding zero turns -0 into 0.
    (value * steps).round() / steps + 0.0
}
