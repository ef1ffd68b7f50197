//! The time left for the job of this process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::output_of;
use super::span::Span;

/// The time left for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Not a Slurm job, or the controller does not answer.
    Unknown,
    Unlimited,
    Limited {
        left: Duration,
        /// The whole time limit, if known.
        whole: Option<Duration>,
    },
}

/// The time left, from `SLURM_JOB_END_TIME` (set by newer versions of Slurm) or squeue.
pub fn left() -> Left {
    let known = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    left_of(&known, SystemTime::now(), &|job| {
        let arguments = ["-h", "-j", job, "-o", "%L"].map(str::to_owned);
        output_of("squeue", &arguments).ok()
    })
}

fn left_of(
    variable: &dyn Fn(&str) -> Option<String>,
    now: SystemTime,
    squeue: &dyn Fn(&str) -> Option<String>,
) -> Left {
    let time = |name: &str| variable(name)?.trim().parse().ok().map(Duration::from_secs);
    if let Some(end) = time("SLURM_JOB_END_TIME") {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        return Left::Limited {
            left: end.saturating_sub(now),
            whole: time("SLURM_JOB_START_TIME").map(|begin| end.saturating_sub(begin)),
        };
    }
    // squeue shows a whole array under its job ID; ask for the task.
    let task = || {
        let (array, task) = (
            variable("SLURM_ARRAY_JOB_ID")?,
            variable("SLURM_ARRAY_TASK_ID")?,
        );
        Some(format!("{array}_{task}"))
    };
    let job = task().or_else(|| variable("SLURM_JOB_ID"));
    match job.and_then(|job| Span::parse(&squeue(&job)?)) {
        None => Left::Unknown,
        Some(Span::Unlimited) => Left::Unlimited,
        Some(Span::Of(left)) => Left::Limited { left, whole: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(environment: &[(&str, &str)], squeue: Option<&str>) -> (Left, Option<String>) {
        let known = |name: &str| {
            let mut own = environment.iter().filter(|(own, _)| *own == name);
            own.next().map(|(_, value)| (*value).to_owned())
        };
        let asked = std::cell::RefCell::new(None);
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let left = left_of(&known, now, &|job| {
            *asked.borrow_mut() = Some(job.to_owned());
            squeue.map(str::to_owned)
        });
        (left, asked.into_inner())
    }

    #[test]
    fn the_environment_takes_precedence_over_squeue() {
        let limited = |left, whole| Left::Limited {
            left: Duration::from_secs(left),
            whole: Option::map(whole, Duration::from_secs),
        };
        let both = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_JOB_START_TIME", "900"),
            ("SLURM_JOB_END_TIME", "1300"),
        ];
        assert_eq!(found(&both, None), (limited(300, Some(400)), None));
        let past = [("SLURM_JOB_END_TIME", "900")];
        assert_eq!(found(&past, None).0, limited(0, None));
        let job = [("SLURM_JOB_ID", "7")];
        let asked = Some("7".to_owned());
        assert_eq!(
            found(&job, Some("1-00:00:10\n")),
            (limited(86_410, None), asked.clone())
        );
        assert_eq!(found(&job, Some("UNLIMITED")), (Left::Unlimited, asked));
        assert_eq!(found(&job, None).0, Left::Unknown);
        let task = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_ARRAY_JOB_ID", "7"),
            ("SLURM_ARRAY_TASK_ID", "3"),
        ];
        assert_eq!(found(&task, Some("5:00")).1, Some("7_3".to_owned()));
        assert_eq!(found(&[], Some("5:00")), (Left::Unknown, None));
    }
}
