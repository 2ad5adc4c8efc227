//! Ctrl-C, SIGTERM and SIGHUP: the first asks the run to stop, the second ends the program at once.

use crate::exit::Exit;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

static STOPPING: AtomicBool = AtomicBool::new(false);
/// Process group of the running child; 0 if none.
static CHILD: AtomicI32 = AtomicI32::new(0);
/// Called once by the first signal.
static WAKE: Mutex<Option<Box<dyn Fn() + Send>>> = Mutex::new(None);

/// Takes over the signals for the rest of the program.
///
/// # Errors
/// When they are taken already.
pub fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if STOPPING.swap(true, Ordering::SeqCst) {
            kill_child();
            std::process::exit(Exit::Interrupted as i32);
        }
        if let Some(wake) = &*WAKE.lock().unwrap_or_else(PoisonError::into_inner) {
            wake();
        }
    })?;
    Ok(())
}

/// Whether a signal has asked for the end.
pub fn requested() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// While this lives, a signal calls `wake`, and a second one kills the process group `child`.
pub(crate) struct Guard;

impl Guard {
    /// Watches over a child.
    pub(crate) fn new(child: i32, wake: impl Fn() + Send + 'static) -> Guard {
        CHILD.store(child, Ordering::SeqCst);
        *WAKE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(wake));
        Guard
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        CHILD.store(0, Ordering::SeqCst);
        *WAKE.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn kill_child() {
    if let Some(group) = rustix::process::Pid::from_raw(CHILD.load(Ordering::SeqCst)) {
        // The child may be gone already.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}
