//! What this process holds, where the system tells.

use std::fs;
use std::io;

/// How many threads of this process have a name that begins like this; zero where it is not told.
pub(crate) fn threads_named(prefix: &str) -> usize {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return 0;
    };
    let name =
        |task: io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("comm")).ok();
    let names = tasks.filter_map(name);
    names.filter(|name| name.starts_with(prefix)).count()
}

/// How many descriptors are open, one for this count among them.
pub(crate) fn descriptors() -> Option<usize> {
    // A Windows program under Wine finds the folder too, with what Wine opens for itself.
    if cfg!(windows) {
        return None;
    }
    Some(fs::read_dir("/proc/self/fd").ok()?.count())
}
