//! Status of a batch of volumes, from the files of its processes: `predictions.json`, one per shard, and the folder of
//! claims.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::state::{Cases, Claim, EXPIRY, Kind, State, Status, age, text_of, unfinished};
use ctseg_base::process::owner::{LastHeartbeat, Liveness, Worker};
use ctseg_base::text::file::read_text;
use ctseg_base::text::os_text;
use ctseg_base::{Error, Result};
use ctseg_core::outputs::inputs::PredictCase;
use ctseg_predict::CaseState;
use ctseg_predict::claims::survey::Survey;
use ctseg_predict::shard::output_name;

/// The parts of `predictions.json` needed here; early versions wrote fewer.
#[derive(Deserialize)]
struct Manifest {
    #[serde(flatten)]
    worker: Option<Worker>,
    #[serde(rename = "begun")]
    started: Option<String>,
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
    /// Only shown.
    input: PathBuf,
    #[serde(with = "os_text::path")]
    output: PathBuf,
    #[serde(flatten)]
    state: CaseState,
}

/// The part of one process, or of several that share their cases.
struct Part {
    manifest: Manifest,
    owner: u32,
    sign: Option<SystemTime>,
    survey: Option<Survey>,
}

/// The status of the batch in the folder at `path`, with all its shards.
pub(super) fn of(path: &Path, manifests: &[PathBuf], now: SystemTime) -> Result<Status> {
    let mut parts = Vec::new();
    for manifest in manifests {
        // The sidecar of a case may have the name of a manifest.
        match Part::read(manifest, now) {
            Err(Error::File { .. }) if manifests.len() > 1 => {}
            part => parts.push(part?),
        }
    }
    parts.sort_by_key(|part| part.sign);
    let started: Vec<String> = parts.iter().filter_map(Part::shard).collect();
    let parts = without_superseded(parts, now);
    let mut status = Status::new(path, Kind::Predict);
    let states: Vec<_> = parts.iter().map(|part| part.state(now)).collect();
    let cases = cases(&parts, &started);
    status.state = overall(&states, &cases);
    let same = states.iter().zip(&parts);
    let mut same = same.filter(|((state, _), _)| *state == status.state);
    status.because = same.find_map(|((_, because), part)| {
        let because = because.as_ref()?;
        Some(match &part.manifest.shard {
            Some(shard) => format!("shard {shard}: {because}"),
            None => because.clone(),
        })
    });
    if status.because.is_none() && status.state == State::Failed {
        status.because = cases.failures.last().map(|(_, reason)| reason.clone());
    }
    if status.state != State::Running && (cases.left > 0 || cases.failed > 0) {
        status.resume = Some("the same command".to_owned());
    }
    status.last_sign = parts.iter().filter_map(Part::last_sign).max();
    if let Some(last) = parts.last() {
        status.worker = last.manifest.worker.clone();
        status.started = parts
            .iter()
            .filter_map(|part| part.manifest.started.clone())
            .min();
    }
    if status.state == State::Running
        && let Some(seconds) = seconds_left(&parts, &states, now)
    {
        status.expect_within(seconds, now);
    }
    status.cases = Some(cases);
    Ok(status)
}

/// The parts, in order of their last update, without those of earlier runs: parts whose cases are all in later parts,
/// and parts without cases whose number of shards no other part has.
fn without_superseded(parts: Vec<Part>, now: SystemTime) -> Vec<Part> {
    let (mut later, mut kept) = (HashSet::new(), Vec::new());
    for part in parts.into_iter().rev() {
        let outputs: Vec<PathBuf> = part.outputs().cloned().collect();
        let is_covered = !outputs.is_empty() && outputs.iter().all(|output| later.contains(output));
        later.extend(outputs);
        if !is_covered || part.state(now).0 == State::Running {
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
            .map_err(|error| Error::file(path, format!("is not a batch manifest: {error}")))?;
        // Ignore a folder that is gone, or was given relative to another working folder.
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
        members
            .map(|member| member.last_heartbeat)
            .chain(self.sign)
            .max()
    }

    fn workers_alive(&self) -> usize {
        let members = self.survey.iter().flat_map(Survey::members);
        members
            .filter(|member| member.alive == Liveness::Alive)
            .count()
    }

    fn state(&self, now: SystemTime) -> (State, Option<String>) {
        let manifest = &self.manifest;
        if self.workers_alive() > 0 {
            return (State::Running, None);
        }
        if let Some(reason) = &manifest.ended_early {
            return (State::Failed, Some(reason.clone()));
        }
        let pending = |case: &Case| case.state == CaseState::Pending;
        match (manifest.ended, &manifest.worker) {
            (true, _) if manifest.interrupted || manifest.cases.iter().any(pending) => {
                (State::Interrupted, None)
            }
            (true, _) => (State::Done, None),
            (false, Some(worker)) => {
                let at = self.sign.unwrap_or(now);
                let sign = LastHeartbeat { at, now };
                unfinished(worker, worker.liveness(self.owner, sign, EXPIRY))
            }
            (false, None) => {
                let why = "written by an early version of ctseg, which did not record the process";
                (State::Unknown, Some(why.to_owned()))
            }
        }
    }

    /// The state of a case as recorded by any process, and its claim.
    fn case_state<'a>(&'a self, case: &'a Case) -> (&'a CaseState, Option<Claim>) {
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

/// All cases; the last written part of a case wins. `started` has all shards, also of earlier runs.
fn cases(parts: &[Part], started: &[String]) -> Cases {
    let mut states = BTreeMap::new();
    for part in parts {
        for case in &part.manifest.cases {
            let (state, claim) = part.case_state(case);
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
    cases.shards_missing = shards_missing(parts, started);
    cases
}

/// Shards, as `3/8`, of the last sharded run that have not `started`.
fn shards_missing(parts: &[Part], started: &[String]) -> Vec<String> {
    let count = parts.iter().rev().find_map(Part::shard_count).unwrap_or(0);
    let all = (1..=count.min(10_000)).map(|number| format!("{number}/{count}"));
    all.filter(|name| !started.contains(name)).collect()
}

/// The state of all parts together.
fn overall(states: &[(State, Option<String>)], cases: &Cases) -> State {
    let any = |wanted: State| states.iter().any(|(state, _)| *state == wanted);
    if any(State::Running) {
        State::Running
    } else if any(State::Unknown) || states.is_empty() {
        State::Unknown
    } else if any(State::Failed) {
        State::Failed
    } else if any(State::Interrupted) || !cases.shards_missing.is_empty() {
        State::Interrupted
    } else if cases.failed > 0 {
        State::Failed
    } else {
        State::Done
    }
}

/// Seconds until the slowest running part is finished; `None` before its first case is done.
fn seconds_left(
    parts: &[Part],
    states: &[(State, Option<String>)],
    now: SystemTime,
) -> Option<f64> {
    let running = parts.iter().zip(states);
    let running = running.filter(|(_, (state, _))| *state == State::Running);
    let each = running.map(|(part, _)| part.seconds_left(now));
    each.collect::<Option<Vec<f64>>>()?
        .into_iter()
        .reduce(f64::max)
}

impl Part {
    fn seconds_left(&self, now: SystemTime) -> Option<f64> {
        let states = || {
            self.manifest
                .cases
                .iter()
                .map(|case| self.case_state(case).0)
        };
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
            // Processes came and went: use the mean time per case and the number of live processes.
            let workers = self.workers_alive().max(1) as f64;
            return Some(left * seconds.iter().sum::<f64>() / done / workers);
        }
        // Use the wall clock, since reading, writing and several devices overlap.
        let started = self
            .manifest
            .started
            .as_ref()?
            .parse::<jiff::Timestamp>()
            .ok()?;
        let elapsed = age(Some(SystemTime::from(started)), now).as_secs_f64();
        let elapsed = elapsed.max(self.manifest.seconds);
        Some(left * elapsed / done)
    }
}
