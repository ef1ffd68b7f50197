//! `ctseg status`: the state of trainings, sweeps, predictions and evaluations.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Value, json};

use crate::cli::args::duration::parse_duration;
use crate::cli::outcome::Outcome;
use crate::cli::print::{print_out, print_raw};
use crate::cli::settings::Settings;
use crate::status;
use crate::status::{Cases, Epochs, Kind, State, Status, Trials, span};
use ctseg_base::text::printable::{Shown, lines, one_line};
use ctseg_base::text::table::{score, table};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::run::state_file::TaskState;

/// Number of claims or failures listed; the rest are counted.
const MAX_LISTED: usize = 8;

#[derive(Args)]
pub struct StatusArgs {
    /// Run, sweep, prediction or evaluation folders, or folders that contain them [default: runs]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Refresh at this interval, such as 5s, until nothing runs
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    watch: Option<Duration>,
}

pub fn run(args: StatusArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let places = match args.runs.is_empty() {
        true => vec![settings.config.runs_or(None)],
        false => args.runs,
    };
    loop {
        let now = SystemTime::now();
        let found = statuses(&places, now)?;
        let running = found.iter().any(|one| one.state == State::Running);
        match (settings.json, args.watch) {
            (true, None) => print_out(&format!("{:#}\n", as_json(&found, now))),
            // One line per refresh.
            (true, Some(_)) => print_out(&format!("{}\n", as_json(&found, now))),
            (false, None) => print_out(&as_text(&found, now)),
            (false, Some(_)) => print_raw(&refreshed(&lines(&as_text(&found, now)))),
        }
        match args.watch {
            Some(every) if running => std::thread::sleep(every),
            _ => return Ok(Outcome::AllDone),
        }
    }
}

fn statuses(places: &[PathBuf], now: SystemTime) -> Result<Vec<Status>> {
    let mut all: Vec<Status> = Vec::new();
    for place in places {
        if !place.is_dir() {
            return Err(Error::file(
                place,
                "is not a folder; expected a run, sweep, prediction or evaluation folder, or a folder of these",
            ));
        }
        let known = |one: &Status| {
            all.iter()
                .any(|old| old.path == one.path && old.kind == one.kind)
        };
        let found = status::of(place, now)?;
        let new: Vec<Status> = found.into_iter().filter(|one| !known(one)).collect();
        all.extend(new);
    }
    Ok(all)
}

/// Clears the terminal first; without a terminal, the text is appended.
fn refreshed(text: &str) -> String {
    use std::io::IsTerminal;
    let time = jiff::Zoned::now().strftime("%H:%M:%S");
    match std::io::stdout().is_terminal() {
        true => format!("\x1b[H\x1b[2J\x1b[3J{text}\n{time}\n"),
        false => format!("{time}\n{text}\n"),
    }
}

fn as_json(found: &[Status], now: SystemTime) -> Value {
    let count = |state: State| found.iter().filter(|one| one.state == state).count();
    let rows = found.iter().map(|one| {
        let mut row = json!(one);
        row["seconds_since_last_sign"] = json!(since(one, now).map(|time| time.as_secs()));
        row
    });
    json!({
        "running": count(State::Running), "done": count(State::Done),
        "interrupted": count(State::Interrupted), "failed": count(State::Failed),
        "unknown": count(State::Unknown), "runs": rows.collect::<Vec<_>>(),
    })
}

fn since(one: &Status, now: SystemTime) -> Option<Duration> {
    // Zero if the file server's clock is ahead.
    one.last_sign
        .map(|sign| now.duration_since(sign).unwrap_or_default())
}

/// The table, followed by details of each run.
fn as_text(found: &[Status], now: SystemTime) -> String {
    let header = ["run", "kind", "state", "progress", "Dice", "updated", "ETA"];
    let rows: Vec<Vec<String>> = found.iter().map(|one| row(one, now)).collect();
    let mut text = table(&header, &rows);
    for one in found {
        let lines = details(one, now);
        if !lines.is_empty() {
            text += &format!("\n{}\n", one.path.shown());
            text.extend(lines.iter().map(|line| format!("  {}\n", one_line(line))));
        }
    }
    text
}

fn row(one: &Status, now: SystemTime) -> Vec<String> {
    let dash = || "–".to_owned();
    vec![
        one.path.display().to_string(),
        match one.kind {
            Kind::Fit => "fit",
            Kind::Sweep => "sweep",
            Kind::Predict => "predict",
            Kind::Evaluate => "evaluate",
        }
        .to_owned(),
        word(one.state).to_owned(),
        progress(one),
        score(one.dice),
        since(one, now).map_or_else(dash, |time| format!("{} ago", span(time))),
        one.expected_end.map_or_else(dash, |end| in_words(end, now)),
    ]
}

fn word(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Done => "done",
        State::Interrupted => "interrupted",
        State::Failed => "failed",
        State::Unknown => "unknown",
    }
}

/// `in 3 h 20 min`.
fn in_words(end: SystemTime, now: SystemTime) -> String {
    match end.duration_since(now) {
        Ok(left) => format!("in {}", span(left)),
        Err(_) => "due".to_owned(),
    }
}

fn progress(one: &Status) -> String {
    if let Some(epochs) = &one.epochs {
        of_training(epochs, one)
    } else if let Some(trials) = &one.trials {
        of_sweep(trials)
    } else if let Some(cases) = &one.cases {
        of_cases(cases)
    } else {
        one.task.as_ref().map_or_else(|| "–".to_owned(), task_words)
    }
}

fn of_training(epochs: &Epochs, one: &Status) -> String {
    if epochs.networks_done == epochs.networks && one.state == State::Done {
        let all = counted(epochs.networks, "network");
        return format!("{} of {all}", epochs.networks_done);
    }
    let mut text = format!("{} epoch {}/{}", epochs.network, epochs.done, epochs.of);
    if epochs.networks > 1 {
        text += &format!(", {} of {} networks", epochs.networks_done, epochs.networks);
    }
    text
}

fn of_sweep(trials: &Trials) -> String {
    let all = counted(trials.all, "trial");
    let mut text = format!("{} of {all} started", trials.started);
    if trials.failed > 0 {
        text += &format!(", {} failed", trials.failed);
    }
    text
}

fn of_cases(cases: &Cases) -> String {
    let counts = [
        (cases.done, "done"),
        (cases.kept, "kept"),
        (cases.failed, "failed"),
        (cases.claimed, "claimed"),
        (cases.left, "left"),
    ];
    let nonzero = counts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = nonzero
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    match parts.is_empty() {
        true => "no cases".to_owned(),
        false => parts.join(", "),
    }
}

fn task_words(task: &TaskState) -> String {
    let mut text = format!("{} {}", task.name, task.done);
    if task.total > 0 {
        text += &format!("/{}", task.total);
    }
    text += &format!(" {}", task.unit);
    if !task.note.is_empty() {
        text += &format!(", {}", task.note);
    }
    text
}

/// The lines about one run below the table.
fn details(one: &Status, now: SystemTime) -> Vec<String> {
    let mut lines = Vec::new();
    if one.state == State::Running {
        if let Some(worker) = &one.worker {
            lines.push(format!("on {}", worker.described()));
        }
        lines.extend(
            one.task
                .as_ref()
                .map(|task| format!("now: {}", task_words(task))),
        );
        lines.extend(
            one.last_line
                .as_ref()
                .map(|line| format!("last log line: {line}")),
        );
    }
    if let Some(best) = one.trials.as_ref().and_then(|trials| trials.best.as_ref()) {
        lines.push(format!("best so far: {best}"));
    }
    lines.extend(one.because.clone());
    if let Some(resume) = &one.resume {
        let quoted = match resume.starts_with("ctseg") {
            true => format!("'{resume}'"),
            false => resume.clone(),
        };
        lines.push(format!("resume with {quoted}"));
    }
    if let Some(cases) = &one.cases {
        lines.extend(of_claims(cases, now));
        lines.extend(of_failures(cases, one.because.as_deref()));
    }
    lines
}

fn of_claims(cases: &Cases, now: SystemTime) -> Vec<String> {
    let named = cases.claims.iter().take(MAX_LISTED).map(|claim| {
        let since = claim.since.as_ref();
        let since = since.and_then(|since| since.parse::<jiff::Timestamp>().ok());
        let since = since.and_then(|since| now.duration_since(SystemTime::from(since)).ok());
        let who = claim.worker.as_ref();
        let who = who.map_or_else(|| claim.process.clone(), |worker| worker.described());
        let since = since.map_or_else(String::new, |time| format!(" for {}", span(time)));
        format!("claimed {}{since} by {who}", name_of(&claim.output))
    });
    let mut lines: Vec<String> = named.collect();
    lines.extend(more(cases.claims.len(), "claimed"));
    let missing = &cases.shards_missing;
    if !missing.is_empty() {
        let named = missing[..missing.len().min(MAX_LISTED)].join(", ");
        let rest = missing.len().saturating_sub(MAX_LISTED);
        let rest = match rest {
            0 => String::new(),
            rest => format!(" and {rest} more"),
        };
        lines.push(format!("shards not started: {named}{rest}"));
    }
    lines
}

fn of_failures(cases: &Cases, shown: Option<&str>) -> Vec<String> {
    let reasons = cases.failures.iter().map(|(_, reason)| reason);
    let named = reasons.take(MAX_LISTED);
    let named = named.filter(|reason| shown != Some(reason.as_str()));
    let mut lines: Vec<String> = named.map(|reason| format!("failed: {reason}")).collect();
    lines.extend(more(cases.failures.len(), "failed"));
    lines
}

fn more(count: usize, what: &str) -> Option<String> {
    let rest = count.saturating_sub(MAX_LISTED);
    (rest > 0).then(|| format!("{rest} more {what}"))
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
