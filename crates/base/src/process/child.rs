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

/// Sends `signal` to a child that has not been waited for, so that its process ID is still valid.
pub fn send_signal(child: &Child, signal: i32) {
    // SAFETY: kill takes plain numbers; an ID without a process is an error without effect.
    unsafe { libc::kill(child.id() as i32, signal) };
}
