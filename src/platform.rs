//! What differs between Linux and macOS: memory figures, parent-gone detection, paths, service managers.

use std::io;

/// Lets the kernel kill this process when the thread that started it ends, where
/// the kernel can (Linux). Elsewhere the end of standard input, which is watched
/// everywhere, is the only sign, and this does nothing.
///
/// # Errors
/// If the parent is gone already.
pub fn follow_parent() -> io::Result<()> {
    let parent = rustix::process::getppid();
    ask_for_death_signal()?;
    // The parent may have died before the kernel was asked.
    if rustix::process::getppid() == parent {
        Ok(())
    } else {
        Err(io::Error::other(
            "the parent process ended during the start",
        ))
    }
}

#[cfg(target_os = "linux")]
fn ask_for_death_signal() -> io::Result<()> {
    let kill = Some(rustix::process::Signal::KILL);
    Ok(rustix::process::set_parent_process_death_signal(kill)?)
}

#[cfg(not(target_os = "linux"))]
fn ask_for_death_signal() -> io::Result<()> {
    Ok(())
}
