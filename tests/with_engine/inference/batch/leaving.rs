//! Leaving at once, in the middle of a case.

use super::*;

/// Asks to leave when the first case has begun, and holds it up until that has happened.
struct HoldsUp<'a> {
    asked: &'a AtomicBool,
    left: &'static AtomicBool,
}

struct HeldUp(&'static AtomicBool);

impl Observer for HoldsUp<'_> {
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn task(&self, name: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        if !name.starts_with("case") {
            return Box::new(Silent);
        }
        self.asked.store(true, Ordering::SeqCst);
        Box::new(HeldUp(self.left))
    }
}

impl Task for HeldUp {
    fn advance(&self, _: u64) {
        while !self.0.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    fn note(&self, _: &str) {}
}

/// All volumes of `folder/images`.
fn job<'a>(folder: &Path, stop: &'a AtomicBool, leaving: Option<Leaving<'a>>) -> PredictJob<'a> {
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
        leaving,
    }
}

#[test]
fn leaving_waits_for_no_case_and_drops_the_one_in_hand() {
    static LEFT: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    batch(folder.path(), 3);
    let out = folder.path().join("out");
    let (stop, asked) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = Mutex::new(Value::Null);
    let leave = || {
        // What would be on disk if the process ended here.
        if !LEFT.load(Ordering::SeqCst) {
            *seen.lock().unwrap() = json(&out.join("predictions.json"));
        }
        stop.store(true, Ordering::SeqCst);
        LEFT.store(true, Ordering::SeqCst);
    };
    let leaving = Leaving {
        asked: &asked,
        leave: &leave,
    };
    let job = job(folder.path(), &stop, Some(leaving));
    let observer = HoldsUp {
        asked: &asked,
        left: &LEFT,
    };
    let summary = predict(&job, &observer).unwrap();
    assert!(LEFT.load(Ordering::SeqCst));
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

/// Takes the thread that hears it down with it.
struct Panics;

impl Observer for Panics {
    fn say(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn task(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Task> {
        Box::new(Silent)
    }
    fn cases(&self, _: &CaseCounts) {
        panic!("of the test");
    }
}

#[test]
fn a_batch_whose_thread_died_ends_by_itself() {
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
