//! The file mode mask of a program that we start, where it is not to be our own.
#![allow(unsafe_code)] // `pre_exec` is unsafe; see `with_umask` for why it is sound here

use rustix::fs::Mode;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Has the program run with this mask.
pub(crate) fn with_umask(command: &mut Command, umask: u32) {
    let set = move || {
        rustix::process::umask(Mode::from_raw_mode(umask));
        Ok(())
    };
    // SAFETY: between fork and exec this makes one system call, and takes neither memory nor locks.
    unsafe { command.pre_exec(set) };
}
