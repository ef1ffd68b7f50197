//! `ctseg fit --gpus N`: the same command in several processes of this machine, one per GPU.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::env::RENDEZVOUS;
use super::outcome::Outcome;
use super::settings::Settings;
use ctseg_base::process::child::{send_signal, spawn_bound};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_engine::device::DeviceChoice;

/// For how long the others may end by themselves once one has failed.
const GRACE: Duration = Duration::from_secs(15);

/// Signals that ask a process to stop.
const ASKING: [i32; 3] = [SIGINT, SIGTERM, SIGUSR1];

/// And for how long after they were asked to.
const ASKED_GRACE: Duration = Duration::from_secs(10);

/// Runs this command's own arguments, without `--gpus`, in `count` processes and waits for all of them.
pub(super) fn on_gpus(count: usize, settings: &Settings) -> anyhow::Result<Outcome> {
    settings.device.check_gpu_libraries()?;
    checked(
        count,
        settings.device.resolved(),
        DeviceChoice::gpus_seen().unwrap_or(0),
    )?;
    let meeting = tempfile::tempdir()?;
    let arguments = without_own(std::env::args_os().skip(1));
    let threads = (settings.threads / count).max(1).to_string();
    let own_exe = std::env::current_exe()?;
    // Before there are any: none of them must be left behind.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    let mut children = Vec::new();
    for rank in 0..count {
        let mut command = Command::new(&own_exe);
        command
            .args(&arguments)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", count.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env(RENDEZVOUS, meeting.path())
            .env("CTSEG_THREADS", &threads)
            .env_remove(super::env::GPUS);
        if rank > 0 {
            command.stdout(Stdio::null());
        }
        children.push(spawn_bound(command)?);
    }
    // Ctrl-C reaches all processes of the terminal by itself, but may be sent to this one alone: the same request
    // twice asks for nothing more.
    let as_request = |signal| if signal == SIGINT { SIGTERM } else { signal };
    let pending = || signals.pending().map(as_request);
    let ends = waited_for(&mut children, pending, (GRACE, ASKED_GRACE));
    Ok(outcome(&ends, |line| eprintln!("error: {line}")))
}

fn checked(count: usize, device: DeviceChoice, gpus: usize) -> Result<()> {
    if !matches!(device, DeviceChoice::LibTorchCuda(_)) {
        return Err(Error::usage(format!(
            "--gpus {count}: the device is {device}; several GPUs train together with --device libtorch:cuda, several processors with mpirun and a build with --features mpi"
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

/// The arguments without what is meant for all processes together: `--gpus N`, `--threads=N`.
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

/// How each of `children` ended. When one fails the others have `grace` to end by themselves, and then, once they were
/// asked to, as long again; signals that are `pending` are handed on.
fn waited_for<S: Iterator<Item = i32>>(
    children: &mut [Child],
    mut pending: impl FnMut() -> S,
    (grace, asked_grace): (Duration, Duration),
) -> Vec<Option<ExitStatus>> {
    let mut ends: Vec<Option<ExitStatus>> = vec![None; children.len()];
    let mut failed: Option<Instant> = None;
    let mut asked = false;
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
            if since > grace + asked_grace {
                send(SIGKILL, children, &ends);
            } else if since > grace && !asked {
                asked = true;
                send(SIGTERM, children, &ends);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    ends
}

/// Sends `signal` to those that run.
fn send(signal: i32, children: &[Child], ends: &[Option<ExitStatus>]) {
    for (child, _) in children.iter().zip(ends).filter(|(_, end)| end.is_none()) {
        send_signal(child, signal);
    }
}

/// What the command comes to, and what is said of processes that were killed.
fn outcome(ends: &[Option<ExitStatus>], tell: impl Fn(&str)) -> Outcome {
    let mut worst = Outcome::AllDone;
    for (rank, end) in ends.iter().enumerate() {
        let end = end.unwrap_or_default();
        if let Some(signal) = end.signal() {
            tell(&format!(
                "process {rank} of {}, on GPU {rank}, was ended by signal {signal}{}",
                ends.len(),
                if signal == SIGKILL {
                    ", as the system does where memory runs out"
                } else {
                    ""
                }
            ));
        }
        worst = match (worst, end.code()) {
            (Outcome::NothingDone | Outcome::WrongUsage, _) => worst,
            (_, Some(2)) => Outcome::WrongUsage,
            (_, Some(75)) => Outcome::Interrupted,
            (_, None) if end.signal().is_some_and(|signal| ASKING.contains(&signal)) => {
                Outcome::Interrupted
            }
            (worst, Some(0)) => worst,
            // Of what crashed or took too much memory nobody knows that it would not do so again.
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
        let begun = Instant::now();
        let mut children: Vec<Child> = scripts.iter().map(|script| shell(script)).collect();
        let mut waiting = signals.to_vec();
        let pending = || {
            if begun.elapsed() < Duration::from_millis(500) {
                return Vec::new().into_iter();
            }
            std::mem::take(&mut waiting).into_iter()
        };
        let graces = (Duration::from_millis(300), Duration::from_millis(700));
        let ends = waited_for(&mut children, pending, graces);
        let said = Mutex::new(Vec::new());
        let outcome = outcome(&ends, |line| said.lock().unwrap().push(line.to_owned()));
        (outcome, said.into_inner().unwrap(), begun.elapsed())
    }

    #[test]
    fn one_that_fails_ends_the_others() {
        let (outcome, said, took) = ended(&["exec sleep 60", "exit 1"], &[]);
        assert_eq!(outcome, Outcome::NothingDone);
        assert!(said[0].contains("process 0 of 2"), "{said:?}");
        assert!(took < Duration::from_secs(20));
        // One that does not listen.
        let deaf = "trap '' TERM; while true; do sleep 0.1; done";
        let (outcome, said, took) = ended(&["kill -9 $$", deaf], &[]);
        assert_eq!(outcome, Outcome::NothingDone);
        assert!(said[0].contains("signal 9, as the system does"), "{said:?}");
        assert!(took < Duration::from_secs(20));
    }

    #[test]
    fn what_all_say_is_said() {
        assert_eq!(ended(&["exit 0", "exit 0"], &[]).0, Outcome::AllDone);
        assert_eq!(ended(&["exit 75", "exit 75"], &[]).0, Outcome::Interrupted);
        assert_eq!(ended(&["exit 75", "exit 2"], &[]).0, Outcome::WrongUsage);
        assert_eq!(
            ended(&["kill -TERM $$", "exit 0"], &[]).0,
            Outcome::Interrupted
        );
        let listens = "trap 'exit 75' USR1; while true; do sleep 0.1; done";
        let (outcome, said, _) = ended(&[listens, listens], &[SIGUSR1]);
        assert_eq!(outcome, Outcome::Interrupted);
        assert_eq!(said, [] as [String; 0]);
    }

    #[test]
    fn wishes_that_cannot_be_are_refused() {
        let cuda = DeviceChoice::LibTorchCuda(0);
        assert!(checked(4, cuda, 4).is_ok());
        for (count, device, gpus, expected) in [
            (4, cuda, 2, "sees 2 GPUs"),
            (0, cuda, 2, "sees 2 GPUs"),
            (2, DeviceChoice::Flex, 0, "mpirun"),
        ] {
            let said = checked(count, device, gpus).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
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
