//! What trackers are told of the steps of a network: `step/loss`, `step/learning_rate`, `step/gradient_norm` (before
//! clipping) and `step/data_wait_share`, the part of the time that was spent waiting for a batch.

use std::time::{Duration, Instant};

use ctseg_base::Result;
use ctseg_core::run::tracker::{Event, Point, Tracker};
use ctseg_engine::learner::StepReport;

/// Steps that follow each other faster share a point, which holds their means and the number of the last: a week of
/// training stays below what a server's database and a browser bear.
const POINT_EVERY: Duration = Duration::from_millis(100);

/// Points are told together, so that telling costs nothing beside the steps.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// One step of a network.
pub(super) struct Step<'a> {
    /// Steps that the network has taken, this one included if it was.
    pub number: u64,
    pub rate: f64,
    pub report: &'a StepReport,
    /// For its batch.
    pub waited: Duration,
    /// In all.
    pub took: Duration,
}

/// Gathers the steps of one network and tells a tracker of them now and then.
pub(super) struct StepLog<'a> {
    tracker: &'a dyn Tracker,
    network: &'a str,
    shared: Shared,
    points: Vec<Point>,
    last_point: Instant,
    told: Instant,
}

/// Steps since the last point.
#[derive(Default)]
struct Shared {
    taken: u32,
    /// Of the last one that was taken.
    number: u64,
    rate: f64,
    losses: f64,
    gradient_norms: f64,
    waited: Duration,
    took: Duration,
}

impl<'a> StepLog<'a> {
    pub(super) fn new(tracker: &'a dyn Tracker, network: &'a str) -> Self {
        let now = Instant::now();
        Self {
            tracker,
            network,
            shared: Shared::default(),
            points: Vec::new(),
            last_point: now.checked_sub(POINT_EVERY).unwrap_or(now),
            told: now,
        }
    }

    /// Takes in a step that ended at `now`. One that was left out for its gradient counts with its time alone.
    ///
    /// # Errors
    /// The tracker's.
    pub(super) fn take_in(&mut self, step: &Step, now: Instant) -> Result<()> {
        self.shared.take_in(step);
        if now.saturating_duration_since(self.last_point) >= POINT_EVERY {
            self.end_point(now);
        }
        if now.saturating_duration_since(self.told) < TELL_EVERY {
            return Ok(());
        }
        self.tell(now)
    }

    /// Tells all that was taken in.
    pub(super) fn flush(&mut self) -> Result<()> {
        let now = Instant::now();
        self.end_point(now);
        self.tell(now)
    }

    fn end_point(&mut self, now: Instant) {
        if self.shared.taken > 0 {
            self.points.push(self.shared.point());
            self.shared = Shared::default();
            self.last_point = now;
        }
    }

    fn tell(&mut self, now: Instant) -> Result<()> {
        self.told = now;
        if self.points.is_empty() {
            return Ok(());
        }
        self.tracker.happened(&Event::Metrics {
            network: Some(self.network.to_owned()),
            points: std::mem::take(&mut self.points),
        })
    }
}

impl Shared {
    fn take_in(&mut self, step: &Step) {
        self.waited += step.waited;
        self.took += step.took;
        if step.report.is_taken() {
            self.taken += 1;
            self.number = step.number;
            self.rate = step.rate;
            self.losses += step.report.loss;
            self.gradient_norms += step.report.gradient_norm;
        }
    }

    fn point(&self) -> Point {
        let steps = f64::from(self.taken);
        let waited = self.waited.as_secs_f64() / self.took.as_secs_f64();
        let values = [
            ("loss", self.losses / steps),
            ("learning_rate", self.rate),
            ("gradient_norm", self.gradient_norms / steps),
            ("data_wait_share", waited.min(1.0)),
        ];
        let values = values.map(|(name, value)| (format!("step/{name}"), value));
        Point::now(self.number, values.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use ctseg_core::run::tracker::EpochRecord;

    #[derive(Default)]
    struct Heard(Mutex<Vec<Event>>);

    impl Tracker for Heard {
        fn epoch(&self, _: &EpochRecord) -> Result<()> {
            Ok(())
        }

        fn happened(&self, event: &Event) -> Result<()> {
            self.0.lock().unwrap().push(event.clone());
            Ok(())
        }
    }

    /// Steps that end so many milliseconds after each other, with their numbers as losses; -1 is left out.
    fn told(every_ms: u64, losses: &[f64]) -> Vec<Vec<Point>> {
        let heard = Heard::default();
        let mut log = StepLog::new(&heard, "fold 0");
        let (begun, mut number) = (Instant::now(), 0);
        for (index, loss) in losses.iter().enumerate() {
            let report = StepReport {
                loss: *loss,
                gradient_norm: if *loss < 0.0 { f64::NAN } else { 2.0 * loss },
                note: None,
            };
            number += u64::from(report.is_taken());
            let step = Step {
                number,
                rate: 0.5,
                report: &report,
                waited: Duration::from_millis(every_ms / 4),
                took: Duration::from_millis(every_ms),
            };
            let after = Duration::from_millis(every_ms * (index as u64 + 1));
            log.take_in(&step, begun + after).unwrap();
        }
        log.flush().unwrap();
        log.flush().unwrap();
        let events = heard.0.into_inner().unwrap();
        let points = |event| match event {
            Event::Metrics { network, points } => {
                assert_eq!(network.as_deref(), Some("fold 0"));
                points
            }
            other => panic!("{other:?}"),
        };
        events.into_iter().map(points).collect()
    }

    fn steps(events: &[Vec<Point>]) -> Vec<Vec<u64>> {
        let steps = |points: &Vec<Point>| points.iter().map(|point| point.step).collect();
        events.iter().map(steps).collect()
    }

    #[test]
    fn every_step_is_a_point_and_a_second_an_event() {
        let losses: Vec<f64> = (1..=7).map(f64::from).collect();
        let events = told(400, &losses);
        assert_eq!(steps(&events), [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
        let expected = [
            ("step/loss", 2.0),
            ("step/learning_rate", 0.5),
            ("step/gradient_norm", 4.0),
            ("step/data_wait_share", 0.25),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(events[0][1].values, expected);
        assert!(events[0][1].time_ms > 1_600_000_000_000);
    }

    #[test]
    fn fast_steps_share_points_and_none_is_lost() {
        let losses: Vec<f64> = (1..=1000).map(f64::from).collect();
        let events = told(8, &losses); // eight seconds
        assert!((8..=10).contains(&events.len()), "{}", events.len());
        let points: Vec<Point> = events.into_iter().flatten().collect();
        assert!((70..=82).contains(&points.len()), "{}", points.len());
        let (mut before, mut sum) = (0, 0.0);
        for point in &points {
            let (name, mean) = &point.values[0];
            assert_eq!(name, "step/loss");
            sum += mean * (point.step - before) as f64;
            before = point.step;
        }
        assert_eq!((before, sum), (1000, 500_500.0));
    }

    #[test]
    fn steps_that_were_left_out_are_no_points() {
        let events = told(200, &[1.0, -1.0, -1.0, 3.0]);
        let points = events.concat();
        assert_eq!(steps(std::slice::from_ref(&points)), [vec![1, 2]]);
        assert_eq!(points[1].values[0].1, 3.0);
        assert!(told(200, &[-1.0, -1.0]).is_empty());
    }
}
