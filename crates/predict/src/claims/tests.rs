//! Several processes, played by one.

use std::fs::File;

use super::processes::file_of;
use super::*;

const WAY: &str = "way";

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

fn joined(folder: &Path, cases: &[PredictCase], way: &str) -> Claims {
    joined_for(folder, cases, way, Duration::from_secs(600))
}

fn joined_for(folder: &Path, cases: &[PredictCase], way: &str, expiry: Duration) -> Claims {
    let claiming = Claiming {
        folder: folder.join("claims"),
        expiry,
    };
    Claims::open(&claiming, &folder.join("out"), cases, (way, true)).unwrap()
}

/// Asks for a case until nobody else has it.
fn taken_at_last(claims: &Claims, index: usize) -> Taking {
    loop {
        match claims.take(index).unwrap() {
            Taking::Busy => std::thread::sleep(Duration::from_millis(5)),
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
fn of_many_processes_exactly_one_takes_each_case() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 40);
    let processes: Vec<Claims> = (0..8).map(|_| joined(folder.path(), &cases, WAY)).collect();
    let taken = Mutex::new(vec![0; cases.len()]);
    std::thread::scope(|scope| {
        for process in &processes {
            let (taken, cases) = (&taken, &cases);
            scope.spawn(move || {
                for index in 0..cases.len() {
                    if process.take(index).unwrap() == Taking::Ours {
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
fn a_case_is_busy_until_it_is_settled_or_its_process_has_left() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 2);
    let (one, two) = (
        joined(folder.path(), &cases, WAY),
        joined(folder.path(), &cases, WAY),
    );
    assert_eq!(one.take(0).unwrap(), Taking::Ours);
    assert_eq!(one.take(1).unwrap(), Taking::Ours);
    assert_eq!(two.take(0).unwrap(), Taking::Busy);
    done(&one, 0);
    assert_eq!(two.take(0).unwrap(), Taking::Settled);
    drop(one);
    assert_eq!(two.take(1).unwrap(), Taking::Ours);
    assert!(matches!(two.known(0), Some(CaseState::Done { .. })));
    assert_eq!(two.known(1), None);
}

#[test]
fn the_case_of_a_process_on_another_machine_is_taken_over_when_it_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 1);
    let (one, two) = (
        joined(folder.path(), &cases, WAY),
        joined(folder.path(), &cases, WAY),
    );
    // As another machine would have left it just now, and an hour ago.
    let other = "01234567-77-88.0";
    let gave_sign = |ago: u64| {
        let file = File::create(file_of(&one.folder, other)).unwrap();
        let touched = SystemTime::now() - Duration::from_secs(ago);
        file.set_modified(touched).unwrap();
    };
    fs::write(one.claim_file(0, 1), format!("{other}\n")).unwrap();
    gave_sign(10);
    assert_eq!(one.take(0).unwrap(), Taking::Busy);
    // It may live all the same, by a clock that is behind: a sign must fail to come.
    gave_sign(3600);
    assert_eq!(one.take(0).unwrap(), Taking::Busy);
    let hasty = joined_for(folder.path(), &cases, WAY, Duration::from_millis(80));
    assert_eq!(taken_at_last(&hasty, 0), Taking::Ours);
    // Only one takes it over, and it has a number of its own.
    assert_eq!(two.take(0).unwrap(), Taking::Busy);
    assert!(hasty.claim_file(0, 2).exists() && hasty.holds(0));
    // Had it been silent itself, it would know that it lost the case.
    fs::write(hasty.claim_file(0, 3), two.processes.own.as_bytes()).unwrap();
    assert!(!hasty.holds(0));
}

#[test]
fn a_clock_that_runs_ahead_holds_no_case_for_longer_than_the_expiry() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 1);
    let expiry = Duration::from_millis(100);
    let one = joined_for(folder.path(), &cases, WAY, expiry);
    // Of a machine whose clock is a day ahead, and which is gone.
    let other = "01234567-77-88.0";
    let ahead = |seconds: u64| {
        let file = File::create(file_of(&one.folder, other)).unwrap();
        let touched = SystemTime::now() + Duration::from_secs(86_400 + seconds);
        file.set_modified(touched).unwrap();
    };
    ahead(0);
    fs::write(one.claim_file(0, 1), format!("{other}\n")).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(one.take(0).unwrap(), Taking::Busy);
    // Each sign begins the wait anew.
    for sign in 1.. {
        if begun.elapsed() > 2 * expiry {
            break;
        }
        ahead(sign);
        assert_eq!(one.take(0).unwrap(), Taking::Busy);
    }
    assert_eq!(taken_at_last(&one, 0), Taking::Ours);
}

#[test]
fn what_is_not_as_it_was_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 5);
    let one = joined(folder.path(), &cases, WAY);
    for index in 0..5 {
        assert_eq!(one.take(index).unwrap(), Taking::Ours);
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
    let two = joined(folder.path(), &cases, WAY);
    // Its files decide, and then this batch's mark.
    assert_eq!(two.take(0).unwrap(), Taking::Remembered);
    let three = joined(folder.path(), &cases, WAY);
    assert!(three.take_anew(0).unwrap() && !two.take_anew(0).unwrap());
    assert_eq!(two.take(0).unwrap(), Taking::Busy);
    done(&three, 0);
    assert_eq!(two.take(0).unwrap(), Taking::Settled);
    for index in 1..5 {
        assert_eq!(two.take(index).unwrap(), Taking::Ours, "case {index}");
    }
    drop((two, three));
    let other = joined(folder.path(), &cases, "another model");
    assert_eq!(other.take(0).unwrap(), Taking::Ours);
}

#[test]
fn failures_stand_for_the_run_and_are_tried_again_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let cases = cases(folder.path(), 1);
    let (one, two) = (
        joined(folder.path(), &cases, WAY),
        joined(folder.path(), &cases, WAY),
    );
    assert_eq!(one.take(0).unwrap(), Taking::Ours);
    failed(&one, 0);
    assert_eq!(two.take(0).unwrap(), Taking::Settled);
    drop(one);
    // The first has ended, the second has been there with it.
    assert_eq!(two.take(0).unwrap(), Taking::Settled);
    drop(two);
    let (three, four) = (
        joined(folder.path(), &cases, WAY),
        joined(folder.path(), &cases, WAY),
    );
    assert!(matches!(three.known(0), Some(CaseState::Failed { .. })));
    assert_eq!(three.take(0).unwrap(), Taking::Ours);
    assert_eq!(four.take(0).unwrap(), Taking::Busy);
    failed(&three, 0);
    drop(three);
    assert_eq!(four.take(0).unwrap(), Taking::Settled);
}

#[test]
fn names_of_cases_make_names_of_files() {
    assert!(key("a/../b c.nii.gz").starts_with("a_.._b_c".replace('.', "_").as_str()));
    assert_ne!(key("a/b.nii.gz"), key("a_b.nii.gz"));
    assert!(key(&"größe".repeat(100)).len() <= NAME_CHARACTERS + 13);
}
