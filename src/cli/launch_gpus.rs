//! `ctseg fit --gpus N`: runs the same command in one local process per GPU.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::env::FILE_STORE;
use super::outcome::Outcome;
use super::settings::Settings;
use ctseg_base::process::child::{send_signal, spawn_bound};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_engine::device::DeviceChoice;

/// How long the other processes may run on after one has failed.
const GRACE: Duration = Duration::from_secs(15);

/// Signals that request a stop.
const STOP_SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGUSR1];

/// How long they may take to stop after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(10);

/// Runs this command, without `--gpus`, in `count` processes and waits for all of them.
pub(super) fn launch(count: usize, settings: &Settings) -> anyhow::Result<Outcome> {
    settings.device.check_gpu_libraries()?;
    check_count(
        count,
        settings.device.resolved(),
        DeviceChoice::gpu_count().unwrap_or(0),
    )?;
    let file_store = tempfile::tempdir()?;
    let arguments = without_own(std::env::args_os().skip(1));
    let threads = (settings.threads / count).max(1).to_string();
    let own_exe = std::env::current_exe()?;
    // Before any child is started, so that none is left behind.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    let mut children = Vec::new();
    for rank in 0..count {
        let mut command = Command::new(&own_exe);
        command
            .args(&arguments)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", count.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env(FILE_STORE, file_store.path())
            .env("CTSEG_THREADS", &threads)
            .env_remove(super::env::GPUS);
        if rank > 0 {
            command.stdout(Stdio::null());
        }
        children.push(spawn_bound(command)?);
    }
    // Ctrl-C reaches all processes of the terminal, but SIGINT may also be sent to this one alone. Forward it as
    // SIGTERM: a second SIGINT would end the children at once.
    let as_request = |signal| if signal == SIGINT { SIGTERM } else { signal };
    let pending = || signals.pending().map(as_request);
    let ends = wait_for_all(&mut children, pending, GRACE, TERM_GRACE);
    Ok(outcome(&ends, |line| eprintln!("error: {line}")))
}

fn check_count(count: usize, device: DeviceChoice, gpus: usize) -> Result<()> {
    if !matches!(device, DeviceChoice::LibTorchCuda(_)) {
        return Err(Error::usage(format!(
            "--gpus {count}: the device is {device}; use --device libtorch:cuda for multi-GPU training, or mpirun and a --features mpi build for several CPUs"
        )));
    }
    if !(1..=gpus).contains(&count) {
        return Err(Error::usage(format!(
            "--gpus {count}: libtorch sees {} on this machine",
            counted(gpus, "GPU")
        )));
    }
    Ok(())
}

/// The arguments without those that apply to all processes together: `--gpus N`, `--threads=N`.
fn without_own(mut arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const OWN: [&str; 2] = ["--gpus", "--threads"];
    let mut kept = Vec::new();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text.as_ref(), None),
        };
        if !OWN.contains(&name) {
            kept.push(argument);
        } else if value.is_none() {
            arguments.next();
        }
    }
    kept
}

/// Waits for all `children` and forwards `pending` signals. When one fails, the others are sent SIGTERM after `grace`
/// and SIGKILL after another `term_grace`.
fn wait_for_all<S: Iterator<Item = i32>>(
    children: &mut [Child],
    mut pending: impl FnMut() -> S,
    grace: Duration,
    term_grace: Duration,
) -> Vec<Option<ExitStatus>> {
    let mut ends: Vec<Option<ExitStatus>> = vec![None; children.len()];
    let mut failed: Option<Instant> = None;
    let mut terminated = false;
    while ends.iter().any(Option::is_none) {
        for signal in pending() {
            send(signal, children, &ends);
        }
        for (child, end) in children.iter_mut().zip(&mut ends) {
            if end.is_none() {
                *end = child.try_wait().ok().flatten();
            }
        }
        if ends.iter().flatten().any(|end| !end.success()) {
            let since = failed.get_or_insert_with(Instant::now).elapsed();
            if since > grace + term_grace {
                send(SIGKILL, children, &ends);
            } else if since > grace && !terminated {
                terminated = true;
                send(SIGTERM, children, &ends);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    ends
}

fn send(signal: i32, children: &[Child], ends: &[Option<ExitStatus>]) {
    for (child, _) in children.iter().zip(ends).filter(|(_, end)| end.is_none()) {
        send_signal(child, signal);
    }
}

/// The outcome of the command; killed processes are reported through `error`.
fn outcome(ends: &[Option<ExitStatus>], error: impl Fn(&str)) -> Outcome {
    let mut worst = Outcome::AllDone;
    for (rank, end) in ends.iter().enumerate() {
        let end = end.unwrap_or_default();
        if let Some(signal) = end.signal() {
            error(&format!(
                "rank {rank} of {} (GPU {rank}) was killed by signal {signal}{}",
                ends.len(),
                if signal == SIGKILL {
                    ", usually because memory ran out"
                } else {
                    ""
                }
            ));
        }
        worst = match (worst, end.code()) {
            (Outcome::NothingDone | Outcome::WrongUsage, _) => worst,
            (_, Some(2)) => Outcome::WrongUsage,
            (_, Some(75)) => Outcome::Interrupted,
            (_, None)
                if end
                    .signal()
                    .is_some_and(|signal| STOP_SIGNALS.contains(&signal)) =>
            {
                Outcome::Interrupted
            }
            (worst, Some(0)) => worst,
            // A crash or lack of memory may well happen again.
            _ => Outcome::NothingDone,
        };
    }
    worst
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::null());
        spawn_bound(command).unwrap()
    }

    fn ended(scripts: &[&str], signals: &[i32]) -> (Outcome, Vec<String>, Duration) {
        let started = Instant::now();
        let mut children: Vec<Child> = scripts.iter().map(|script| shell(script)).collect();
        let mut waiting = signals.to_vec();
        let pending = || {
            if started.elapsed() < Duration::from_millis(500) {
                return Vec::new().into_iter();
            }
            std::mem::take(&mut waiting).into_iter()
        };
        let [grace, term_grace] = [300, 700].map(Duration::from_millis);
        let ends = wait_for_all(&mut children, pending, grace, term_grace);
        let errors = Mutex::new(Vec::new());
        let outcome = outcome(&ends, |line| errors.lock().unwrap().push(line.to_owned()));
        (outcome, errors.into_inner().unwrap(), started.elapsed())
    }

    #[test]
    fn one_that_fails_ends_the_others() {
        let (outcome, errors, took) = ended(&["exec sleep 60", "exit 1"], &[]);
        assert_eq!(outcome, Outcome::NothingDone);
        assert!(errors[0].contains("rank 0 of 2"), "{errors:?}");
        assert!(took < Duration::from_secs(20));
        // One that ignores SIGTERM.
        let ignores = "trap '' TERM; while true; do sleep 0.1; done";
        let (outcome, errors, took) = ended(&["kill -9 $$", ignores], &[]);
        assert_eq!(outcome, Outcome::NothingDone);
        assert!(
            errors[0].contains("signal 9, usually because memory"),
            "{errors:?}"
        );
        assert!(took < Duration::from_secs(20));
    }

    #[test]
    fn the_outcome_is_that_of_the_worst_process() {
        assert_eq!(ended(&["exit 0", "exit 0"], &[]).0, Outcome::AllDone);
        assert_eq!(ended(&["exit 75", "exit 75"], &[]).0, Outcome::Interrupted);
        assert_eq!(ended(&["exit 75", "exit 2"], &[]).0, Outcome::WrongUsage);
        assert_eq!(
            ended(&["kill -TERM $$", "exit 0"], &[]).0,
            Outcome::Interrupted
        );
        let handles = "trap 'exit 75' USR1; while true; do sleep 0.1; done";
        let (outcome, errors, _) = ended(&[handles, handles], &[SIGUSR1]);
        assert_eq!(outcome, Outcome::Interrupted);
        assert_eq!(errors, [] as [String; 0]);
    }

    #[test]
    fn impossible_counts_are_refused() {
        let cuda = DeviceChoice::LibTorchCuda(0);
        assert!(check_count(4, cuda, 4).is_ok());
        for (count, device, gpus, expected) in [
            (4, cuda, 2, "sees 2 GPUs"),
            (0, cuda, 2, "sees 2 GPUs"),
            (2, DeviceChoice::Flex, 0, "mpirun"),
        ] {
            let error = check_count(count, device, gpus).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let arguments = [
            "fit",
            "--gpus",
            "4",
            "--stage",
            "1",
            "--gpus=2",
            "--threads=9",
        ];
        let kept = without_own(arguments.iter().map(OsString::from));
        assert_eq!(kept, ["fit", "--stage", "1"]);
    }
}
