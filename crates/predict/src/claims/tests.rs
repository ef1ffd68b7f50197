//! Several processes, simulated in one.

use std::fs::File;

use super::processes::file_of;
use super::*;

const SETTINGS: &str = "way";

fn cases(folder: &Path, count: usize) -> Vec<PredictCase> {
    let case = |index: usize| {
        let name = format!("case_{index}.nii.gz");
        let case = PredictCase::new(
            folder.join("in").join(&name),
            folder.join("out").join(&name),
        );
        for file in [&case.input, &case.output] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
        }
        fs::write(&case.input, name).unwrap();
        case
    };
    (0..count).map(case).collect()
}

fn joined(folder: &Path, cases: &[PredictCase], settings: &str) -> Claims {
    joined_for(folder, cases, settings, Duration::from_secs(600))
}

fn joined_for(folder: &Path, cases: &[PredictCase], settings: &str, expiry: Duration) -> Claims {
    let claiming = Claiming {
        folder: folder.join("claims"),
        expiry,
    };
    Claims::open(&claiming, &folder.join("out"), cases, (settings, true)).unwrap()
}

/// Tries to claim a case until no other process has it.
fn taken_at_last(claims: &Claims, index: usize) -> ClaimOutcome {
    loop {
        match claims.take(index).unwrap() {
            ClaimOutcome::Busy => std::thread::sleep(Duration::from_millis(5)),
            taking => return taking,
        }
    }
}

fn done(claims: &Claims, index: usize) {
    fs::write(sidecar_path(&claims.cases[index].output), "{}").unwrap();
    fs::write(&claims.cases[index].output, "labels").unwrap();
    let state = CaseState::Done {
        seconds: 1.0,
        notes: Vec::new(),
    };
    claims.settle(index, &state).unwrap();
}

fn failed(claims: &Claims, index: usize) {
    let reason = "truncated".to_owned();
    claims.settle(index, &CaseState::Failed { reason }).unwrap();
}

#[test]
fn exactly_one_of_many_processes_claims_each_case() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 40);
    let processes: Vec<Claims> = (0..8)
        .map(|_| joined(folder.path(), &cases, SETTINGS))
        .collect();
    let taken = Mutex::new(vec![0; cases.len()]);
    std::thread::scope(|scope| {
        for process in &processes {
            let (taken, cases) = (&taken, &cases);
            scope.spawn(move || {
                for index in 0..cases.len() {
                    if process.take(index).unwrap() == ClaimOutcome::Ours {
                        taken.lock().unwrap()[index] += 1;
                        assert!(process.holds(index));
                    }
                }
            });
        }
    });
    assert_eq!(taken.into_inner().unwrap(), vec![1; cases.len()]);
}

#[test]
fn a_case_is_busy_until_it_is_settled_or_its_process_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 2);
    let (one, two) = (
        joined(folder.path(), &cases, SETTINGS),
        joined(folder.path(), &cases, SETTINGS),
    );
    assert_eq!(one.take(0).unwrap(), ClaimOutcome::Ours);
    assert_eq!(one.take(1).unwrap(), ClaimOutcome::Ours);
    assert_eq!(two.take(0).unwrap(), ClaimOutcome::Busy);
    done(&one, 0);
    assert_eq!(two.take(0).unwrap(), ClaimOutcome::Settled);
    drop(one);
    assert_eq!(two.take(1).unwrap(), ClaimOutcome::Ours);
    assert!(matches!(two.known(0), Some(CaseState::Done { .. })));
    assert_eq!(two.known(1), None);
}

#[test]
fn the_case_of_a_process_on_another_machine_is_taken_over_without_heartbeats() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 1);
    let (one, two) = (
        joined(folder.path(), &cases, SETTINGS),
        joined(folder.path(), &cases, SETTINGS),
    );
    // A heartbeat of another machine, just now and an hour ago.
    let other = "01234567-77-88.0";
    let heartbeat = |ago: u64| {
        let file = File::create(file_of(&one.folder, other)).unwrap();
        let touched = SystemTime::now() - Duration::from_secs(ago);
        file.set_modified(touched).unwrap();
    };
    fs::write(one.claim_file(0, 1), format!("{other}\n")).unwrap();
    heartbeat(10);
    assert_eq!(one.take(0).unwrap(), ClaimOutcome::Busy);
    // It may still be alive with a slow clock: another heartbeat must be missed.
    heartbeat(3600);
    assert_eq!(one.take(0).unwrap(), ClaimOutcome::Busy);
    let hasty = joined_for(folder.path(), &cases, SETTINGS, Duration::from_millis(80));
    assert_eq!(taken_at_last(&hasty, 0), ClaimOutcome::Ours);
    // Only one takes it over, with the next number.
    assert_eq!(two.take(0).unwrap(), ClaimOutcome::Busy);
    assert!(hasty.claim_file(0, 2).exists() && hasty.holds(0));
    // If it had missed heartbeats itself, it would know that it lost the case.
    fs::write(hasty.claim_file(0, 3), two.processes.own.as_bytes()).unwrap();
    assert!(!hasty.holds(0));
}

#[test]
fn a_fast_clock_holds_no_case_for_longer_than_the_expiry() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 1);
    let expiry = Duration::from_millis(100);
    let one = joined_for(folder.path(), &cases, SETTINGS, expiry);
    // A dead process of a machine whose clock is a day ahead.
    let other = "01234567-77-88.0";
    let ahead = |seconds: u64| {
        let file = File::create(file_of(&one.folder, other)).unwrap();
        let touched = SystemTime::now() + Duration::from_secs(86_400 + seconds);
        file.set_modified(touched).unwrap();
    };
    ahead(0);
    fs::write(one.claim_file(0, 1), format!("{other}\n")).unwrap();
    let started = std::time::Instant::now();
    assert_eq!(one.take(0).unwrap(), ClaimOutcome::Busy);
    // Each heartbeat restarts the wait.
    for beat in 1.. {
        if started.elapsed() > 2 * expiry {
            break;
        }
        ahead(beat);
        assert_eq!(one.take(0).unwrap(), ClaimOutcome::Busy);
    }
    assert_eq!(taken_at_last(&one, 0), ClaimOutcome::Ours);
}

#[test]
fn changed_cases_are_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 5);
    let one = joined(folder.path(), &cases, SETTINGS);
    for index in 0..5 {
        assert_eq!(one.take(index).unwrap(), ClaimOutcome::Ours);
        done(&one, index);
    }
    drop(one);
    fs::remove_file(&cases[4].output).unwrap();
    fs::write(&cases[1].input, "another volume").unwrap();
    fs::remove_file(sidecar_path(&cases[2].output)).unwrap();
    fs::write(
        folder
            .path()
            .join("claims")
            .join(format!("{}.json", key("case_3.nii.gz"))),
        "{",
    )
    .unwrap();
    let two = joined(folder.path(), &cases, SETTINGS);
    // Its files decide, then the mark of this batch.
    assert_eq!(two.take(0).unwrap(), ClaimOutcome::MarkedDone);
    let three = joined(folder.path(), &cases, SETTINGS);
    assert!(three.take_again(0).unwrap() && !two.take_again(0).unwrap());
    assert_eq!(two.take(0).unwrap(), ClaimOutcome::Busy);
    done(&three, 0);
    assert_eq!(two.take(0).unwrap(), ClaimOutcome::Settled);
    for index in 1..5 {
        assert_eq!(two.take(index).unwrap(), ClaimOutcome::Ours, "case {index}");
    }
    drop((two, three));
    let other = joined(folder.path(), &cases, "another model");
    assert_eq!(other.take(0).unwrap(), ClaimOutcome::Ours);
}

#[test]
fn failures_are_final_for_the_run_and_retried_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 1);
    let (one, two) = (
        joined(folder.path(), &cases, SETTINGS),
        joined(folder.path(), &cases, SETTINGS),
    );
    assert_eq!(one.take(0).unwrap(), ClaimOutcome::Ours);
    failed(&one, 0);
    assert_eq!(two.take(0).unwrap(), ClaimOutcome::Settled);
    drop(one);
    // The first has ended, but the second ran at the same time.
    assert_eq!(two.take(0).unwrap(), ClaimOutcome::Settled);
    drop(two);
    let (three, four) = (
        joined(folder.path(), &cases, SETTINGS),
        joined(folder.path(), &cases, SETTINGS),
    );
    assert!(matches!(three.known(0), Some(CaseState::Failed { .. })));
    assert_eq!(three.take(0).unwrap(), ClaimOutcome::Ours);
    assert_eq!(four.take(0).unwrap(), ClaimOutcome::Busy);
    failed(&three, 0);
    drop(three);
    assert_eq!(four.take(0).unwrap(), ClaimOutcome::Settled);
}

#[test]
fn names_of_cases_become_file_names() {
    assert!(key("a/../b c.nii.gz").starts_with("a_.._b_c".replace('.', "_").as_str()));
    assert_ne!(key("a/b.nii.gz"), key("a_b.nii.gz"));
    assert!(key(&"größe".repeat(100)).len() <= NAME_CHARACTERS + 13);
}
