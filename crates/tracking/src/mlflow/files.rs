//! The files and models of a run on their way.

use std::path::Path;
use std::sync::Arc;

use super::artifacts::{Store, files_of, sha256_of};
use super::delivery::{Delivery, Link};
use super::error::Fault;
use super::event::{Event, Line};
use super::event_reader::Lines;
use super::model::{Maker, Shown, show};
use ctseg_core::model::bundle::Bundle;

impl Delivery {
    /// Sends the files of the next event that has some; false where there is none.
    pub(super) fn file_sent(&mut self) -> Result<bool, Fault> {
        if self.held.is_some() {
            return Ok(false);
        }
        let mut lines = Lines::open(&self.run, self.standing.files)?;
        while let Some(placed) = lines.next()? {
            let file = placed.line.filter(|line| line.event.is_file());
            if let Some(line) = &file {
                match self.files_of_event(line) {
                    Err(Fault::Refused(refusal)) => self.sent.note(refusal.message),
                    Err(Fault::Place(why)) => {
                        // Said however much else is.
                        self.sent.notes.push(why.clone());
                        self.held = Some(why);
                        return Ok(false);
                    }
                    other => other?,
                }
            }
            self.standing.files = placed.end;
            if file.is_some() {
                self.save()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn files_of_event(&mut self, line: &Line) -> Result<(), Fault> {
        let link = Arc::clone(&self.link);
        match &line.event {
            Event::Artifact { path, to } => {
                let path = self.run.join(path);
                let files = files_of(&path)?;
                if files.is_empty() {
                    let gone = format!("{}: is gone and was not sent", path.display());
                    self.sent.note(gone);
                    return Ok(());
                }
                let uri = self.artifact_uri()?;
                let store = Store::open(&link.http, &uri, link.parts)?;
                let is_folder = path.is_dir();
                let own = path.file_name().unwrap_or_default().to_string_lossy();
                for (file, below) in &files {
                    let parts = match is_folder {
                        true => vec![to.as_str(), &own, below],
                        false => vec![to.as_str(), below],
                    };
                    let parts: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
                    let shown = parts.join("/");
                    self.file(&store, file, &shown, &shown)?;
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
                let shown = Shown {
                    bundle: self.run.join(bundle),
                    name,
                    sha256,
                    structures,
                    spacing_mm,
                    made: line.at,
                };
                self.model(&link, &shown)
            }
            _ => Ok(()),
        }
    }

    fn model(&mut self, link: &Link, shown: &Shown) -> Result<(), Fault> {
        let found = Bundle::open(&shown.bundle).map(|bundle| bundle.sha256());
        if !found.is_ok_and(|found| found == shown.sha256) {
            self.sent.note(format!(
                "{}: the model that the run made lies there no more, and was not sent",
                shown.bundle.display()
            ));
            return Ok(());
        }
        let artifact_uri = self.artifact_uri()?;
        let (experiment, run) = (
            self.standing.experiment_id.clone(),
            self.standing.run_id.clone(),
        );
        let run_key = self.begun.key.clone();
        let maker = Maker {
            experiment: &experiment,
            run: &run,
            run_key: &run_key,
            artifact_uri: &artifact_uri,
        };
        let place = format!("model:{}", shown.sha256);
        show(
            &Self::api(link),
            maker,
            shown,
            link.parts,
            &mut |store, path, to| self.file(store, path, to, &format!("{place}/{to}")),
        )
    }

    /// Sends one file unless the server has it; `known` is what it is remembered by.
    fn file(&mut self, store: &Store, path: &Path, to: &str, known: &str) -> Result<(), Fault> {
        let sha256 = match sha256_of(path) {
            Ok(sha256) => sha256,
            Err(error) => {
                self.sent.note(error.to_string());
                return Ok(());
            }
        };
        if self.standing.artifacts.get(known) == Some(&sha256) {
            return Ok(());
        }
        store
            .risk()
            .into_iter()
            .for_each(|risk| self.sent.remark(risk));
        store.put(path, to)?;
        self.sent.files += 1;
        self.sent.bytes += std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        self.standing.artifacts.insert(known.to_owned(), sha256);
        Ok(self.save()?)
    }

    fn artifact_uri(&mut self) -> Result<String, Fault> {
        if let Some(uri) = &self.artifact_uri {
            return Ok(uri.clone());
        }
        let known = Self::api(&self.link).run(&self.standing.run_id)?;
        Ok(self.artifact_uri.insert(known.artifact_uri).clone())
    }
}
