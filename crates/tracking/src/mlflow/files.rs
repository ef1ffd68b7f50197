//! Uploads a run's artifacts and models.

use std::path::Path;
use std::sync::Arc;

use super::artifacts::{Store, list_files};
use super::delivery::{Delivery, Link};
use super::error::Fault;
use super::event::{Event, Line};
use super::event_reader::Lines;
use super::model::{LoggedModel, SourceRun, log_model};
use ctseg_base::hash::file_sha256;
use ctseg_core::model::bundle::Bundle;

impl Delivery {
    /// Uploads the files of the next event that has any. Returns false if there is none.
    pub(super) fn send_next_file(&mut self) -> Result<bool, Fault> {
        if self.blocked.is_some() {
            return Ok(false);
        }
        let mut lines = Lines::open(&self.run, self.cursor.files)?;
        while let Some(positioned) = lines.next()? {
            let file = positioned.line.filter(|line| line.event.is_file());
            if let Some(line) = &file {
                match self.send_event_files(line) {
                    Err(Fault::Refused(refusal)) => self.sent.skip(refusal.message),
                    Err(Fault::LocationDenied(why)) => {
                        // Shown even beyond the limit on notes.
                        self.sent.notes.push(why.clone());
                        self.blocked = Some(why);
                        return Ok(false);
                    }
                    other => other?,
                }
            }
            self.cursor.files = positioned.end;
            if file.is_some() {
                self.save()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn send_event_files(&mut self, line: &Line) -> Result<(), Fault> {
        let link = Arc::clone(&self.link);
        match &line.event {
            Event::Artifact { path, to } => {
                let path = self.run.join(path);
                let files = list_files(&path)?;
                if files.is_empty() {
                    let missing = format!("{}: no longer exists; not uploaded", path.display());
                    self.sent.skip(missing);
                    return Ok(());
                }
                let uri = self.artifact_uri()?;
                let store = Store::open(&link.http, &uri, link.parts)?;
                let is_folder = path.is_dir();
                let own = path.file_name().unwrap_or_default().to_string_lossy();
                for (file, below) in &files {
                    if !self.is_in_run_folder(file) {
                        let outside = "is not in the run folder; not uploaded, since a copied run could name any file";
                        self.sent.skip(format!("{}: {outside}", file.display()));
                        continue;
                    }
                    let parts = match is_folder {
                        true => vec![to.as_str(), &own, below],
                        false => vec![to.as_str(), below],
                    };
                    let parts: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
                    let name = parts.join("/");
                    self.send_file(&store, file, &name, &name)?;
                }
                Ok(())
            }
            Event::Model {
                bundle,
                sha256,
                name,
                structures,
                spacing_mm,
            } => {
                let model = LoggedModel {
                    bundle: self.run.join(bundle),
                    name,
                    sha256,
                    structures,
                    spacing_mm,
                    created: line.at,
                };
                self.send_model(&link, &model)
            }
            _ => Ok(()),
        }
    }

    /// Whether `file`, links resolved, is below the run folder.
    fn is_in_run_folder(&self, file: &Path) -> bool {
        match (self.run.canonicalize(), file.canonicalize()) {
            (Ok(run), Ok(file)) => file.starts_with(run),
            _ => false,
        }
    }

    fn send_model(&mut self, link: &Link, model: &LoggedModel) -> Result<(), Fault> {
        let found = Bundle::open(&model.bundle).map(|bundle| bundle.sha256());
        if !found.is_ok_and(|found| found == model.sha256) {
            self.sent.skip(format!(
                "{}: no longer the model that the run produced; not uploaded",
                model.bundle.display()
            ));
            return Ok(());
        }
        let artifact_uri = self.artifact_uri()?;
        let (experiment, run) = (
            self.cursor.experiment_id.clone(),
            self.cursor.run_id.clone(),
        );
        let run_key = self.start.key.clone();
        let source_run = SourceRun {
            experiment: &experiment,
            run: &run,
            run_key: &run_key,
            artifact_uri: &artifact_uri,
        };
        let prefix = format!("model:{}", model.sha256);
        log_model(
            &Self::api(link),
            source_run,
            model,
            link.parts,
            &mut |store, path, to| self.send_file(store, path, to, &format!("{prefix}/{to}")),
        )
    }

    /// Uploads one file unless the server has it; `known` is its key in the cursor.
    fn send_file(
        &mut self,
        store: &Store,
        path: &Path,
        to: &str,
        known: &str,
    ) -> Result<(), Fault> {
        let sha256 = match file_sha256(path) {
            Ok(sha256) => sha256,
            Err(error) => {
                self.sent.skip(error.to_string());
                return Ok(());
            }
        };
        if self.cursor.artifacts.get(known) == Some(&sha256) {
            return Ok(());
        }
        if let Some(risk) = store.risk().filter(|risk| !self.sent.notes.contains(risk)) {
            self.sent.note(risk);
        }
        store.put(path, to)?;
        self.sent.files += 1;
        self.sent.bytes += std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        self.cursor.artifacts.insert(known.to_owned(), sha256);
        Ok(self.save()?)
    }

    fn artifact_uri(&mut self) -> Result<String, Fault> {
        if let Some(uri) = &self.artifact_uri {
            return Ok(uri.clone());
        }
        let known = Self::api(&self.link).run(&self.cursor.run_id)?;
        Ok(self.artifact_uri.insert(known.artifact_uri).clone())
    }
}
