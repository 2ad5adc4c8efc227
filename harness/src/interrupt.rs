//! Ctrl-C, SIGTERM and SIGHUP: while there is something to put in order, the first asks for the end and the second ends the
//! program at once; before, the first does.

use crate::exit::Exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

static STOPPING: AtomicBool = AtomicBool::new(false);
/// Whether the first signal only asks for the end.
static DEFERRED: AtomicBool = AtomicBool::new(false);
/// The running children.
static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// A running child.
struct Child {
    /// Its process group.
    group: i32,
    /// Called once by the first signal.
    wake: Box<dyn Fn() + Send>,
}

/// Takes over the signals for the rest of the program. Until [`defer`], the first one ends it.
///
/// # Errors
/// When they are taken already.
pub fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if STOPPING.swap(true, Ordering::SeqCst) || !DEFERRED.load(Ordering::SeqCst) {
            kill_children();
            std::process::exit(Exit::Interrupted as i32);
        }
        for child in children().iter() {
            (child.wake)();
        }
    })?;
    Ok(())
}

/// From now on the first signal only asks for the end: whoever calls this looks at [`requested`].
pub fn defer() {
    DEFERRED.store(true, Ordering::SeqCst);
}

/// Whether a signal has asked for the end.
pub fn requested() -> bool {
    STOPPING.load(Ordering::SeqCst)
}

/// While this lives, a signal calls `wake`, and a second one kills the child's process group.
pub(crate) struct Guard {
    group: i32,
}

impl Guard {
    /// Watches over a child, the leader of the process group.
    pub(crate) fn new(group: i32, wake: impl Fn() + Send + 'static) -> Guard {
        let wake = Box::new(wake);
        children().push(Child { group, wake });
        Guard { group }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        children().retain(|child| child.group != self.group);
    }
}

fn children() -> MutexGuard<'static, Vec<Child>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill_children() {
    for child in children().iter() {
        if let Some(group) = rustix::process::Pid::from_raw(child.group) {
            // The child may be gone already.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}
