//! Child processes that end with their parent, and signals to them.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Spawns `command` as a process that gets SIGTERM when the thread that spawned it ends.
///
/// # Errors
/// The process cannot be spawned.
pub fn spawn_bound(mut command: Command) -> std::io::Result<Child> {
    // SAFETY: prctl may be called between fork and exec.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
    command.spawn()
}

/// Sends `signal` to a child that was not waited for yet, so that its process id is still its own.
pub fn send_signal(child: &Child, signal: i32) {
    // SAFETY: only a number is passed on; an id that is gone is an error that changes nothing.
    unsafe { libc::kill(child.id() as i32, signal) };
}
