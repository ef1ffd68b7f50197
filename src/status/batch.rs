//! How a batch of volumes stands, from what its processes have written: `predictions.json`, one for each shard, and
//! the folder where processes meet that share the volumes.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::state::{Cases, Claim, EXPIRY, Kind, Standing, Status, age, standing, text_of};
use ctseg_base::process::owner::{Alive, Sign, Worker};
use ctseg_base::text::file::read_text;
use ctseg_base::text::os_text;
use ctseg_base::{Error, Result};
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_predict::CaseState;
use ctseg_predict::claims::survey::Survey;
use ctseg_predict::shard::output_name;

/// What is needed of `predictions.json`; early versions wrote less.
#[derive(Deserialize)]
struct Manifest {
    #[serde(flatten)]
    worker: Option<Worker>,
    begun: Option<String>,
    folder: Option<PathBuf>,
    claims: Option<ClaimsAt>,
    shard: Option<String>,
    ended: bool,
    interrupted: bool,
    ended_early: Option<String>,
    seconds: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct ClaimsAt {
    #[serde(with = "os_text::path")]
    folder: PathBuf,
    expiry_seconds: f64,
    way: String,
}

#[derive(Deserialize)]
struct Case {
    /// As text: it is only shown.
    input: PathBuf,
    #[serde(with = "os_text::path")]
    output: PathBuf,
    #[serde(flatten)]
    state: CaseState,
}

/// One process's part, or that of several which share their cases.
struct Part {
    manifest: Manifest,
    owner: u32,
    sign: Option<SystemTime>,
    survey: Option<Survey>,
}

/// How the batch in the folder at `path` stands, all its shards together.
pub(super) fn of(path: &Path, manifests: &[PathBuf], now: SystemTime) -> Result<Status> {
    let mut parts = Vec::new();
    for manifest in manifests {
        // A case may be called as the file that tells of all cases.
        match Part::read(manifest, now) {
            Err(Error::File { .. }) if manifests.len() > 1 => {}
            part => parts.push(part?),
        }
    }
    parts.sort_by_key(|part| part.sign);
    let begun: Vec<String> = parts.iter().filter_map(Part::shard).collect();
    let parts = without_superseded(parts, now);
    let mut status = Status::new(path, Kind::Predict);
    let standings: Vec<_> = parts.iter().map(|part| part.standing(now)).collect();
    let cases = cases(&parts, &begun);
    status.state = together(&standings, &cases);
    let told = standings.iter().zip(&parts);
    let mut told = told.filter(|((state, _), _)| *state == status.state);
    status.because = told.find_map(|((_, because), part)| {
        let because = because.as_ref()?;
        Some(match &part.manifest.shard {
            Some(shard) => format!("shard {shard}: {because}"),
            None => because.clone(),
        })
    });
    if status.because.is_none() && status.state == Standing::Failed {
        status.because = cases.failures.last().map(|(_, reason)| reason.clone());
    }
    if status.state != Standing::Running && (cases.left > 0 || cases.failed > 0) {
        status.resume = Some("the same command".to_owned());
    }
    status.last_sign = parts.iter().filter_map(Part::last_sign).max();
    if let Some(last) = parts.last() {
        status.worker = last.manifest.worker.clone();
        status.begun = parts
            .iter()
            .filter_map(|part| part.manifest.begun.clone())
            .min();
    }
    if status.state == Standing::Running
        && let Some(seconds) = seconds_left(&parts, &standings, now)
    {
        status.expect_within(seconds, now);
    }
    status.cases = Some(cases);
    Ok(status)
}

/// The parts, in the order of their signs, without those of earlier runs: all of whose cases later parts have too, and
/// those without cases that are shards of no number of shards that is left.
fn without_superseded(parts: Vec<Part>, now: SystemTime) -> Vec<Part> {
    let (mut later, mut kept) = (HashSet::new(), Vec::new());
    for part in parts.into_iter().rev() {
        let outputs: Vec<PathBuf> = part.outputs().cloned().collect();
        let is_covered = !outputs.is_empty() && outputs.iter().all(|output| later.contains(output));
        later.extend(outputs);
        if !is_covered || part.standing(now).0 == Standing::Running {
            kept.push(part);
        }
    }
    kept.reverse();
    let with_cases = kept.iter().filter(|part| !part.manifest.cases.is_empty());
    let counts: Vec<Option<usize>> = with_cases.map(Part::shard_count).collect();
    kept.retain(|part| {
        !part.manifest.cases.is_empty() || counts.is_empty() || counts.contains(&part.shard_count())
    });
    kept
}

impl Part {
    fn outputs(&self) -> impl Iterator<Item = &PathBuf> {
        self.manifest.cases.iter().map(|case| &case.output)
    }

    /// Such as `3/8`.
    fn shard(&self) -> Option<String> {
        self.manifest.shard.clone()
    }

    /// The 8 of `3/8`.
    fn shard_count(&self) -> Option<usize> {
        let (_, count) = self.manifest.shard.as_ref()?.split_once('/')?;
        count.parse().ok()
    }

    fn read(path: &Path, now: SystemTime) -> Result<Self> {
        let text = read_text(path).map_err(Error::io(path, "read"))?;
        let metadata = std::fs::metadata(path).map_err(Error::io(path, "read"))?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|error| Error::file(path, format!("tells of no batch: {error}")))?;
        // A folder that is gone, or named from another working folder, has nothing to add.
        let survey = manifest.claims.as_ref().and_then(|claims| {
            let expiry = Duration::try_from_secs_f64(claims.expiry_seconds).unwrap_or(EXPIRY);
            Survey::read(&claims.folder, &claims.way, expiry, now).ok()
        });
        Ok(Self {
            manifest,
            owner: metadata.uid(),
            sign: metadata.modified().ok(),
            survey,
        })
    }

    fn last_sign(&self) -> Option<SystemTime> {
        let members = self.survey.iter().flat_map(Survey::members);
        members.map(|member| member.sign).chain(self.sign).max()
    }

    fn workers_alive(&self) -> usize {
        let members = self.survey.iter().flat_map(Survey::members);
        members.filter(|member| member.alive == Alive::Yes).count()
    }

    fn standing(&self, now: SystemTime) -> (Standing, Option<String>) {
        let manifest = &self.manifest;
        if self.workers_alive() > 0 {
            return (Standing::Running, None);
        }
        if let Some(reason) = &manifest.ended_early {
            return (Standing::Failed, Some(reason.clone()));
        }
        let pending = |case: &Case| case.state == CaseState::Pending;
        match (manifest.ended, &manifest.worker) {
            (true, _) if manifest.interrupted || manifest.cases.iter().any(pending) => {
                (Standing::Interrupted, None)
            }
            (true, _) => (Standing::Done, None),
            (false, Some(worker)) => {
                let at = self.sign.unwrap_or(now);
                let sign = Sign { at, now };
                standing(worker, worker.alive(self.owner, sign, EXPIRY))
            }
            (false, None) => {
                let why = "its files do not say which process works on it; it is of an early version of ctseg";
                (Standing::Unknown, Some(why.to_owned()))
            }
        }
    }

    /// The state of a case, as far as any process knows, and who is at work on it.
    fn state_of<'a>(&'a self, case: &'a Case) -> (&'a CaseState, Option<Claim>) {
        let known = (&case.state, None);
        let (CaseState::Pending, Some(survey), Some(folder)) =
            (&case.state, &self.survey, &self.manifest.folder)
        else {
            return known;
        };
        let name = output_name(
            folder,
            &PredictCase::new(case.input.clone(), case.output.clone()),
        );
        if let Some(settled) = survey.settled(&name) {
            return (settled, None);
        }
        let Some(held) = survey.held(&name) else {
            return known;
        };
        let claim = Claim {
            output: case.output.clone(),
            process: held.by.process.clone(),
            worker: held.by.worker.clone(),
            since: text_of(held.since),
        };
        (&case.state, Some(claim))
    }
}

/// All cases; of one that several parts know, the part that was written last is right. `begun` are all shards, those of
/// earlier runs too.
fn cases(parts: &[Part], begun: &[String]) -> Cases {
    let mut states = BTreeMap::new();
    for part in parts {
        for case in &part.manifest.cases {
            let (state, claim) = part.state_of(case);
            states.insert(&case.output, (case, state, claim));
        }
    }
    let mut cases = Cases::default();
    for (case, state, claim) in states.into_values() {
        match (state, claim) {
            (CaseState::Done { .. }, _) => cases.done += 1,
            (CaseState::Kept { .. }, _) => cases.kept += 1,
            (CaseState::Failed { reason }, _) => {
                cases.failed += 1;
                cases.failures.push((case.input.clone(), reason.clone()));
            }
            (CaseState::Pending, Some(claim)) => {
                cases.claimed += 1;
                cases.claims.push(claim);
            }
            (CaseState::Pending, None) => cases.left += 1,
        }
    }
    cases.shards_missing = shards_missing(parts, begun);
    cases
}

/// Shards, as `3/8`, of the last run that has any, which have not `begun`.
fn shards_missing(parts: &[Part], begun: &[String]) -> Vec<String> {
    let count = parts.iter().rev().find_map(Part::shard_count).unwrap_or(0);
    let all = (1..=count.min(10_000)).map(|number| format!("{number}/{count}"));
    all.filter(|name| !begun.contains(name)).collect()
}

/// One standing for all parts.
fn together(standings: &[(Standing, Option<String>)], cases: &Cases) -> Standing {
    let any = |wanted: Standing| standings.iter().any(|(state, _)| *state == wanted);
    if any(Standing::Running) {
        Standing::Running
    } else if any(Standing::Unknown) || standings.is_empty() {
        Standing::Unknown
    } else if any(Standing::Failed) {
        Standing::Failed
    } else if any(Standing::Interrupted) || !cases.shards_missing.is_empty() {
        Standing::Interrupted
    } else if cases.failed > 0 {
        Standing::Failed
    } else {
        Standing::Done
    }
}

/// Seconds until the slowest part that runs is through; none before its first case is done.
fn seconds_left(
    parts: &[Part],
    standings: &[(Standing, Option<String>)],
    now: SystemTime,
) -> Option<f64> {
    let running = parts.iter().zip(standings);
    let running = running.filter(|(_, (state, _))| *state == Standing::Running);
    let each = running.map(|(part, _)| part.seconds_left(now));
    each.collect::<Option<Vec<f64>>>()?
        .into_iter()
        .reduce(f64::max)
}

impl Part {
    fn seconds_left(&self, now: SystemTime) -> Option<f64> {
        let states = || self.manifest.cases.iter().map(|case| self.state_of(case).0);
        let seconds = states().filter_map(|state| match state {
            CaseState::Done { seconds, .. } => Some(*seconds),
            _ => None,
        });
        let seconds: Vec<f64> = seconds.collect();
        let left = states()
            .filter(|state| **state == CaseState::Pending)
            .count() as f64;
        if seconds.is_empty() {
            return None;
        }
        let done = seconds.len() as f64;
        if self.survey.is_some() {
            // Who shares came and went: what counts is what a case takes, and how many are at work.
            let workers = self.workers_alive().max(1) as f64;
            return Some(left * seconds.iter().sum::<f64>() / done / workers);
        }
        // Reading and writing overlap with segmenting, and devices share the cases: the clock has it all.
        let begun = self
            .manifest
            .begun
            .as_ref()?
            .parse::<jiff::Timestamp>()
            .ok()?;
        let elapsed = age(Some(SystemTime::from(begun)), now).as_secs_f64();
        let elapsed = elapsed.max(self.manifest.seconds);
        Some(left * elapsed / done)
    }
}
