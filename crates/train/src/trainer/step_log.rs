//! Metrics of training steps for trackers: `step/loss`, `step/learning_rate`, `step/gradient_norm` (before clipping)
//! and `step/data_wait_share`, the share of the time spent waiting for a batch.

use std::time::{Duration, Instant};

use ctseg_base::Result;
use ctseg_core::run::tracker::{Event, Point, Tracker};
use ctseg_engine::learner::StepReport;

/// Minimum time between points. Faster steps are averaged into one point with the number of the last step, so that a
/// week of training stays manageable for a server's database and a browser.
const POINT_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which points are sent together, so that sending costs next to nothing.
const SEND_INTERVAL: Duration = Duration::from_secs(1);

/// One step of a network.
pub(super) struct Step<'a> {
    /// Number of steps taken, including this one if it was taken.
    pub number: u64,
    pub learning_rate: f64,
    pub report: &'a StepReport,
    /// Time spent waiting for its batch.
    pub waited: Duration,
    /// Total time.
    pub took: Duration,
}

/// Collects the steps of one network and sends them to a tracker at intervals.
pub(super) struct StepLog<'a> {
    tracker: &'a dyn Tracker,
    network: &'a str,
    pending: PendingPoint,
    points: Vec<Point>,
    last_point: Instant,
    last_sent: Instant,
}

/// Steps since the last point.
#[derive(Default)]
struct PendingPoint {
    taken: u32,
    /// Number of the last step taken.
    number: u64,
    learning_rate: f64,
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
            pending: PendingPoint::default(),
            points: Vec::new(),
            last_point: now.checked_sub(POINT_INTERVAL).unwrap_or(now),
            last_sent: now,
        }
    }

    /// Records a step that ended at `now`. A step skipped for a non-finite gradient counts only with its time.
    ///
    /// # Errors
    /// Those of the tracker.
    pub(super) fn record(&mut self, step: &Step, now: Instant) -> Result<()> {
        self.pending.record(step);
        if now.saturating_duration_since(self.last_point) >= POINT_INTERVAL {
            self.end_point(now);
        }
        if now.saturating_duration_since(self.last_sent) < SEND_INTERVAL {
            return Ok(());
        }
        self.send(now)
    }

    /// Sends everything recorded so far.
    pub(super) fn flush(&mut self) -> Result<()> {
        let now = Instant::now();
        self.end_point(now);
        self.send(now)
    }

    fn end_point(&mut self, now: Instant) {
        if self.pending.taken > 0 {
            self.points.push(self.pending.point());
            self.pending = PendingPoint::default();
            self.last_point = now;
        }
    }

    fn send(&mut self, now: Instant) -> Result<()> {
        self.last_sent = now;
        if self.points.is_empty() {
            return Ok(());
        }
        self.tracker.log_event(&Event::Metrics {
            network: Some(self.network.to_owned()),
            points: std::mem::take(&mut self.points),
        })
    }
}

impl PendingPoint {
    fn record(&mut self, step: &Step) {
        self.waited += step.waited;
        self.took += step.took;
        if step.report.is_taken() {
            self.taken += 1;
            self.number = step.number;
            self.learning_rate = step.learning_rate;
            self.losses += step.report.loss;
            self.gradient_norms += step.report.gradient_norm;
        }
    }

    fn point(&self) -> Point {
        let steps = f64::from(self.taken);
        let waited = self.waited.as_secs_f64() / self.took.as_secs_f64();
        let values = [
            ("loss", self.losses / steps),
            ("learning_rate", self.learning_rate),
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
    struct Recorder(Mutex<Vec<Event>>);

    impl Tracker for Recorder {
        fn log_epoch(&self, _: &EpochRecord) -> Result<()> {
            Ok(())
        }

        fn log_event(&self, event: &Event) -> Result<()> {
            self.0.lock().unwrap().push(event.clone());
            Ok(())
        }
    }

    /// The events of steps at an interval of `every_ms`, with the given losses; steps with loss -1 are skipped.
    fn events_of(every_ms: u64, losses: &[f64]) -> Vec<Vec<Point>> {
        let recorder = Recorder::default();
        let mut log = StepLog::new(&recorder, "fold 0");
        let (started, mut number) = (Instant::now(), 0);
        for (index, loss) in losses.iter().enumerate() {
            let report = StepReport {
                loss: *loss,
                gradient_norm: if *loss < 0.0 { f64::NAN } else { 2.0 * loss },
                note: None,
            };
            number += u64::from(report.is_taken());
            let step = Step {
                number,
                learning_rate: 0.5,
                report: &report,
                waited: Duration::from_millis(every_ms / 4),
                took: Duration::from_millis(every_ms),
            };
            let after = Duration::from_millis(every_ms * (index as u64 + 1));
            log.record(&step, started + after).unwrap();
        }
        log.flush().unwrap();
        log.flush().unwrap();
        let events = recorder.0.into_inner().unwrap();
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
    fn slow_steps_are_single_points_and_sent_once_a_second() {
        let losses: Vec<f64> = (1..=7).map(f64::from).collect();
        let events = events_of(400, &losses);
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
    fn fast_steps_are_averaged_and_none_is_lost() {
        let losses: Vec<f64> = (1..=1000).map(f64::from).collect();
        let events = events_of(8, &losses); // eight seconds
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
    fn skipped_steps_are_no_points() {
        let events = events_of(200, &[1.0, -1.0, -1.0, 3.0]);
        let points = events.concat();
        assert_eq!(steps(std::slice::from_ref(&points)), [vec![1, 2]]);
        assert_eq!(points[1].values[0].1, 3.0);
        assert!(events_of(200, &[-1.0, -1.0]).is_empty());
    }
}
