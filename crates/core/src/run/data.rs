//! The dataset content and folds of a run, as of its start.

use std::path::Path;

use crate::dataset::PredefinedSplits;
use crate::dataset::content::DatasetContent;
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};

/// The file of [`RunData::content`] in a run's folder.
pub const CONTENT: &str = "data_fingerprint.json";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunData {
    pub content: DatasetContent,
    /// Every fold, trained or not.
    pub splits: PredefinedSplits,
}

impl RunData {
    /// The data of the run in the folder `run`; none if an earlier version started it.
    ///
    /// # Errors
    /// A file that cannot be read, or missing folds.
    pub fn read(run: &Path) -> Result<Option<Self>> {
        let Some(content) = read_content(run)? else {
            return Ok(None);
        };
        let splits = PredefinedSplits::of_run(run)?.ok_or_else(|| {
            Error::file(
                run,
                "splits.json is missing; restore the file, or start a new run without --resume",
            )
        })?;
        Ok(Some(Self { content, splits }))
    }

    /// The dataset's name when the run in the folder `run` started.
    pub fn name_of(run: &Path) -> Result<Option<String>> {
        Ok(read_content(run)?.map(|content| content.dataset))
    }

    /// Writes both files into the run's folder.
    pub fn write(&self, run: &Path) -> Result<()> {
        PredefinedSplits::store(run, &self.splits.folds)?;
        let path = run.join(CONTENT);
        let text = serde_json::to_string_pretty(&self.content).map_err(|error| {
            Error::file(&path, format!("cannot serialise the content: {error}"))
        })?;
        write_bytes_atomically(&path, format!("{text}\n").as_bytes())
    }

    /// Fails if the dataset at `dataset` with the content `now` has changed since the run in `run` started; the error
    /// lists the changes.
    pub fn check_unchanged(&self, now: &DatasetContent, dataset: &Path, run: &Path) -> Result<()> {
        let changes = now.changes_since(&self.content);
        if changes.is_empty() {
            return Ok(());
        }
        Err(Error::file(
            dataset,
            format!(
                "the dataset has changed since {} started: {}; restore it, pass the unchanged dataset with --data, or start a new run without --resume",
                run.display(),
                changes.join("; ")
            ),
        ))
    }
}

/// The content is written after the folds, so that its presence implies theirs.
fn read_content(run: &Path) -> Result<Option<DatasetContent>> {
    let path = run.join(CONTENT);
    if !path.exists() {
        return Ok(None);
    }
    let text = read_text(&path).map_err(Error::io(&path, "read"))?;
    let content = serde_json::from_str(&text).map_err(|error| {
        Error::file(
            &path,
            format!("not a dataset fingerprint ({error}); restore the file, or start a new run without --resume"),
        )
    })?;
    Ok(Some(content))
}
