//! What a run is trained on: the content of its dataset and its folds, as they were when it began.

use std::path::Path;

use crate::dataset::GivenSplits;
use crate::dataset::content::DatasetContent;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};

/// In a run's folder, [`RunData::content`].
pub const CONTENT: &str = "data_fingerprint.json";

/// Data and folds of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunData {
    pub content: DatasetContent,
    /// Every fold, trained or not.
    pub splits: GivenSplits,
}

impl RunData {
    /// What the run in the folder at `run` began with; none where an earlier version began it.
    ///
    /// # Errors
    /// A file that cannot be read, or the content without the folds.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let Some(content) = read_content(run)? else {
            return Ok(None);
        };
        let splits = GivenSplits::of_run(run)?.ok_or_else(|| {
            Error::file(
                run,
                "has no folds any more (splits.json); restore the file, or begin a new run without --resume",
            )
        })?;
        Ok(Some(Self { content, splits }))
    }

    /// The dataset's name when the run in the folder at `run` began.
    pub fn name_of(run: &Path) -> Result<Option<String>> {
        Ok(read_content(run)?.map(|content| content.dataset))
    }

    /// Writes both files into the run's folder.
    pub fn write(&self, run: &Path) -> Result<()> {
        GivenSplits::store(run, &self.splits.folds)?;
        let path = run.join(CONTENT);
        let text = serde_json::to_string_pretty(&self.content)
            .map_err(|error| Error::file(&path, format!("cannot write: {error}")))?;
        write_bytes_atomically(&path, format!("{text}\n").as_bytes())
    }

    /// An error that names what has changed in the dataset, which lies at `place` and holds `now`, since the run in `run`
    /// began with this.
    pub fn refuse_if_changed(&self, now: &DatasetContent, place: &Path, run: &Path) -> Result<()> {
        let changes = now.changes_since(&self.content);
        if changes.is_empty() {
            return Ok(());
        }
        Err(Error::file(
            place,
            format!(
                "the dataset has changed since {} began: {}; restore it, name where it lies unchanged with --data, or begin a new run without --resume",
                run.display(),
                changes.join("; ")
            ),
        ))
    }
}

/// The content is written after the folds.
fn read_content(run: &Path) -> Result<Option<DatasetContent>> {
    let path = run.join(CONTENT);
    if !path.exists() {
        return Ok(None);
    }
    let text = read_text(&path).map_err(Error::io(&path, "read"))?;
    let content = serde_json::from_str(&text).map_err(|error| {
        Error::file(
            &path,
            format!("not as it was when the run began ({error}); restore the file, or begin a new run without --resume"),
        )
    })?;
    Ok(Some(content))
}
