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

#[test]
fn leaving_waits_for_no_case_and_drops_the_one_in_hand() {
    static LEFT: AtomicBool = AtomicBool::new(false);
    let folder = tempfile::tempdir().unwrap();
    batch(folder.path(), 3);
    let images = folder.path().join("images").into_os_string();
    let out = folder.path().join("out");
    let inputs = expand_inputs(&[images], &out, None).unwrap();
    let (cases, folder_of_cases) = plan_outputs(&inputs.files, &out).unwrap();
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
    let job = PredictJob {
        cases,
        folder: folder_of_cases,
        models: vec![folder.path().join("model")],
        computes: vec![compute()],
        tta: None,
        postprocess: true,
        overwrite: false,
        max_ram: None,
        probabilities: None,
        outputs: Outputs::default(),
        statistics: false,
        shard: None,
        claiming: None,
        on_attention: None,
        stop: &stop,
        leaving: Some(Leaving {
            asked: &asked,
            leave: &leave,
        }),
    };
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
