//! What trackers are told of a sweep as a whole; each trial tells of itself.

use super::table::TrialRow;
use super::{FILE, SweepJob};
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_core::run::folder::PLOTS;
use ctseg_core::run::parameters;
use ctseg_core::run::tracker::{Event, Outcome, Point, RunIdentity, Tracker};

/// Does the `work` of the sweep, which is given its name, and tells of its beginning, what came of it and how it
/// ended. What goes wrong with telling is said and ends nothing.
pub(super) fn told(
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
    let tell = |what: &dyn Fn(&dyn Tracker) -> Result<()>| {
        for tracker in job.trackers {
            if let Err(error) = what(*tracker) {
                observer.warn(&error.to_string());
            }
        }
    };
    let tell_all = |events: Vec<Event>| {
        for event in events {
            tell(&|tracker| tracker.happened(&event));
        }
    };
    tell(&|tracker| tracker.begun(&identity));
    tell_all(beginning(job)?);
    let rows = work(&name);
    tell_all(ending(job, rows.as_deref().ok()));
    let outcome = Outcome::of(&rows);
    tell(&|tracker| tracker.ended(&identity, &outcome));
    rows
}

/// What is tried on what.
fn beginning(job: &SweepJob) -> Result<Vec<Event>> {
    let settings = &job.settings;
    let mut given = parameters::of_recipe(&settings.recipe)?;
    for (name, value) in [
        ("sweep.vary", settings.vary.join(" ")),
        ("sweep.rungs", settings.rungs.to_string()),
        ("sweep.eta", settings.eta.to_string()),
        ("seed", settings.seed.to_string()),
    ] {
        given.push((name.to_owned(), value));
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
        Event::Parameters(given),
        Event::Tags([job.tags.clone(), own.to_vec()].concat()),
    ])
}

/// What came of it: the best trial, where it got to its end, and its tables, which an interrupted one has too.
fn ending(job: &SweepJob, rows: Option<&[TrialRow]>) -> Vec<Event> {
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
