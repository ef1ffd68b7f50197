//! Immediate exit in the middle of a case.

use super::*;

/// Requests an exit when the first case has started, and blocks the case until the exit has happened.
struct Blocks<'a> {
    requested: &'a AtomicBool,
    exited: &'static AtomicBool,
}

struct Blocked(&'static AtomicBool);

impl Observer for Blocks<'_> {
    fn info(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn task(&self, name: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        if !name.starts_with("case") {
            return Box::new(Silent);
        }
        self.requested.store(true, Ordering::SeqCst);
        Box::new(Blocked(self.exited))
    }
}

impl Task for Blocked {
    fn advance(&self, _: u64) {
        while !self.0.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    fn note(&self, _: &str) {}
}

/// All volumes of `folder/images`.
fn job<'a>(
    folder: &Path,
    stop: &'a AtomicBool,
    immediate_exit: Option<ImmediateExit<'a>>,
) -> PredictJob<'a> {
    let out = folder.join("out");
    let images = folder.join("images").into_os_string();
    let inputs = expand_inputs(&[images], &out, None).unwrap();
    let (cases, folder_of_cases) = plan_outputs(&inputs.files, &out).unwrap();
    PredictJob {
        cases,
        folder: folder_of_cases,
        models: vec![folder.join("model")],
        computes: vec![compute()],
        tta: None,
        postprocess: true,
        thresholds: Thresholds::default(),
        overwrite: false,
        max_ram: None,
        rescale_hu: None,
        probabilities: None,
        outputs: Outputs::default(),
        statistics: false,
        shard: None,
        claiming: None,
        on_attention: None,
        stop,
        immediate_exit,
    }
}

#[test]
fn immediate_exit_waits_for_no_case_and_drops_the_current_one() {
    static EXITED: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    batch(folder.path(), 3);
    let out = folder.path().join("out");
    let (stop, requested) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = Mutex::new(Value::Null);
    let exit = || {
        // What would be on disk if the process ended here.
        if !EXITED.load(Ordering::SeqCst) {
            *seen.lock().unwrap() = json(&out.join("predictions.json"));
        }
        stop.store(true, Ordering::SeqCst);
        EXITED.store(true, Ordering::SeqCst);
    };
    let immediate_exit = ImmediateExit {
        requested: &requested,
        exit: &exit,
    };
    let job = job(folder.path(), &stop, Some(immediate_exit));
    let observer = Blocks {
        requested: &requested,
        exited: &EXITED,
    };
    let summary = predict(&job, &observer).unwrap();
    assert!(EXITED.load(Ordering::SeqCst));
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen["interrupted"], true, "{seen}");
    assert_eq!(seen["counts"]["pending"], 3, "{seen}");
    assert!(summary.interrupted && summary.written.is_empty() && summary.failures.is_empty());
    let left_behind = out
        .read_dir()
        .unwrap()
        .map(|file| file.unwrap().file_name());
    assert_eq!(left_behind.collect::<Vec<_>>(), ["predictions.json"]);
}

/// Panics in the thread that reports cases.
struct Panics;

impl Observer for Panics {
    fn info(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(Silent)
    }
    fn cases(&self, _: &CaseCounts) {
        panic!("of the test");
    }
}

#[test]
fn a_batch_ends_by_itself_after_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    batch(folder.path(), 12);
    let stop = AtomicBool::new(false);
    let summary = predict(&job(folder.path(), &stop, None), &Panics).unwrap();
    let reason = summary.ended_early.unwrap();
    assert!(
        reason.contains("of the test") && !reason.contains('\n'),
        "{reason}"
    );
    let manifest = json(&folder.path().join("out/predictions.json"));
    assert_eq!(manifest["ended"], true);
    assert!(manifest["ended_early"].is_string(), "{manifest}");
}
