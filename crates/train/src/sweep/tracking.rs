//! Reports a sweep as a whole to trackers; each trial reports itself.

use super::table::TrialRow;
use super::{FILE, SweepJob};
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_core::run::folder::PLOTS;
use ctseg_core::run::parameters;
use ctseg_core::run::tracker::{Event, Outcome, Point, RunIdentity, Tracker};

/// Runs the `work` of the sweep, which receives its name, and reports its start, results and outcome. Errors of
/// trackers become warnings and do not end the sweep.
pub(super) fn run_tracked(
    job: &SweepJob,
    observer: &dyn Observer,
    work: impl FnOnce(&str) -> Result<Vec<TrialRow>>,
) -> Result<Vec<TrialRow>> {
    let name = job.folder.file_name().unwrap_or_default().to_string_lossy();
    let identity = RunIdentity {
        name: &name,
        folder: &job.folder,
        parent: None,
    };
    let notify = |report: &dyn Fn(&dyn Tracker) -> Result<()>| {
        for tracker in job.trackers {
            if let Err(error) = report(*tracker) {
                observer.warn(&error.to_string());
            }
        }
    };
    let log_events = |events: Vec<Event>| {
        for event in events {
            notify(&|tracker| tracker.log_event(&event));
        }
    };
    notify(&|tracker| tracker.run_started(&identity));
    log_events(start_events(job)?);
    let rows = work(&name);
    log_events(end_events(job, rows.as_deref().ok()));
    let outcome = Outcome::of(&rows);
    notify(&|tracker| tracker.run_ended(&identity, &outcome));
    rows
}

/// Parameters and tags of the sweep.
fn start_events(job: &SweepJob) -> Result<Vec<Event>> {
    let settings = &job.settings;
    let mut parameters = parameters::of_recipe(&settings.recipe)?;
    for (name, value) in [
        ("sweep.vary", settings.vary.join(" ")),
        ("sweep.rungs", settings.rungs.to_string()),
        ("sweep.eta", settings.eta.to_string()),
        ("seed", settings.seed.to_string()),
    ] {
        parameters.push((name.to_owned(), value));
    }
    let own = [
        ("ctseg.kind", "sweep".to_owned()),
        ("ctseg.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("ctseg.stage", settings.recipe.stage.to_string()),
        ("ctseg.recipe", settings.recipe.name.clone()),
        ("ctseg.dataset", job.dataset.name.clone()),
        ("ctseg.engine", job.compute.to_string()),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    Ok(vec![
        Event::Parameters(parameters),
        Event::Tags([job.tags.clone(), own.to_vec()].concat()),
    ])
}

/// Results: the best trial if the sweep completed, and its tables, which an interrupted sweep has as well.
fn end_events(job: &SweepJob, rows: Option<&[TrialRow]>) -> Vec<Event> {
    let mut events = Vec::new();
    if let Some(rows) = rows {
        let failed = rows.iter().filter(|row| row.failure.is_some()).count();
        let mut values = vec![
            ("sweep/trials".to_owned(), rows.len() as f64),
            ("sweep/failed".to_owned(), failed as f64),
        ];
        if let Some(best) = rows.first() {
            let dice = best
                .best_dice
                .map(|dice| ("sweep/best_dice".to_owned(), dice));
            values.extend(dice);
            let tags = [
                ("ctseg.best_trial", best.trial.clone()),
                ("ctseg.best_settings", best.settings.join(" ")),
            ];
            let tags = tags.map(|(name, value)| (name.to_owned(), value));
            events.push(Event::Tags(tags.to_vec()));
        }
        events.push(Event::Metrics {
            network: None,
            points: vec![Point::now(0, values)],
        });
    }
    let files = [FILE, "sweep.csv", "sweep.json", "table.txt", PLOTS];
    let there = files.map(|name| job.folder.join(name)).into_iter();
    let there = there.filter(|path| path.exists());
    events.extend(there.map(|path| Event::Artifact {
        path,
        to: String::new(),
    }));
    events
}
