//! A program that is stopped before each system call that changes something on a disk, to be killed there, held
//! there, or sent on.
//!
//! `strace -e inject=…:when=N` counts for each system call and each thread apart, so a point of one thread can
//! hide a point of another for good. Here all calls of all threads are counted as one sequence, in the order in
//! which the kernel sees them: to enumerate 1, 2, 3, … until the program ends is to try every point.
//!
//! Threads run as they like between their points, so the same number need not be the same call in two runs of
//! a program that has several.

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::OFlags;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

/// A traced program. Dropped, it is killed.
///
/// All of it belongs to the thread that started it: the kernel tells nobody else about what it traces.
pub struct Stepper {
    main: Pid,
    /// Every thread of it and of its children, with whether it is inside a system call.
    threads: HashMap<Pid, bool>,
    /// The thread that waits before a call.
    held: Option<Pid>,
    /// The program itself runs, not the shell that starts it.
    has_begun: bool,
    ended: Option<Ended>,
}

/// Where the program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Before this call, which was not made yet.
    Before(Call),
    /// At its end.
    Ended(Ended),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    With(i32),
    /// By this signal.
    By(i32),
}

/// A system call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// What it is for, as far as its arguments say: an open file, a path, or two.
    pub on: Vec<PathBuf>,
    thread: Pid,
    arguments: Vec<u64>,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<_> = self.on.iter().map(|path| path.display().to_string()).collect();
        write!(f, "{} {}", self.name, on.join(" to "))
    }
}

impl Call {
    /// The argument of this number, from 0.
    pub(crate) fn argument(&self, number: usize) -> u64 {
        self.arguments.get(number).copied().unwrap_or_default()
    }

    /// A word in the memory of the program.
    pub(crate) fn word(&self, address: u64) -> u64 {
        word(self.thread, address)
    }

    /// What the kernel tells of an open file of the program: `fd` opens it, `fdinfo` says where it stands.
    pub(crate) fn proc(&self, kind: &str, descriptor: u64) -> PathBuf {
        format!("/proc/{}/{kind}/{}", self.thread, descriptor as u32 as i32).into()
    }
}

/// A command for [`Stepper::start`]: add arguments, environment and where output goes. Output must not go to
/// a pipe that nobody reads meanwhile.
pub fn stepped(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(program);
    command
}

impl Stepper {
    /// Starts a command that [`stepped`] made.
    ///
    /// # Errors
    /// It cannot be started, or not be traced: that is forbidden in some containers.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let main = Pid::from_raw(child.id().try_into().map_err(io::Error::other)?);
        let mut stepper =
            Self { main, threads: HashMap::from([(main, false)]), held: None, has_begun: false, ended: None };
        // The shell has stopped itself.
        if let WaitStatus::Exited(..) | WaitStatus::Signaled(..) =
            waitpid(main, Some(WaitPidFlag::WUNTRACED))?
        {
            return Err(io::Error::other("the shell ended before it could be traced"));
        }
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        if let Err(errno) = ptrace::seize(main, options) {
            stepper.ended = Some(Ended::By(Signal::SIGKILL as i32));
            kill(main, Signal::SIGKILL)?;
            waitpid(main, None)?;
            return Err(errno.into());
        }
        kill(main, Signal::SIGCONT)?;
        Ok(stepper)
    }

    /// Lets the program go on to the next call, of any of its threads. The others go on until they come to a
    /// call of their own, and wait there for their turn.
    ///
    /// # Errors
    /// Those of ptrace.
    pub fn step(&mut self) -> io::Result<Step> {
        if let Some(ended) = self.ended {
            return Ok(Step::Ended(ended));
        }
        if let Some(held) = self.held.take() {
            proceed(held, None)?;
        }
        loop {
            // Only what this thread traces: other tests start programs too.
            let status = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD))?;
            match status {
                WaitStatus::PtraceSyscall(thread) => {
                    let is_inside = self.threads.entry(thread).or_default();
                    *is_inside = !*is_inside;
                    if *is_inside
                        && self.has_begun
                        && let Some(call) = change(thread)
                    {
                        self.held = Some(thread);
                        return Ok(Step::Before(call));
                    }
                    proceed(thread, None)?;
                }
                WaitStatus::PtraceEvent(thread, _, event) => {
                    self.has_begun |= event == ptrace::Event::PTRACE_EVENT_EXEC as i32;
                    proceed(thread, None)?;
                }
                WaitStatus::Stopped(thread, signal) => proceed(thread, Some(signal))?,
                WaitStatus::Exited(thread, code) => {
                    if let Some(ended) = self.gone(thread, Ended::With(code)) {
                        return Ok(Step::Ended(ended));
                    }
                }
                WaitStatus::Signaled(thread, signal, _) => {
                    if let Some(ended) = self.gone(thread, Ended::By(signal as i32)) {
                        return Ok(Step::Ended(ended));
                    }
                }
                WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
            }
        }
    }

    /// Lets the thread that waits make its call and wait behind it, while no other thread makes one. Gives what
    /// the call returned; an error is below zero, as the kernel gives it.
    ///
    /// # Errors
    /// Those of ptrace, and that no thread waits before a call.
    pub fn perform(&mut self) -> io::Result<i64> {
        let held = self.held.ok_or_else(|| io::Error::other("no thread waits before a call"))?;
        proceed(held, None)?;
        loop {
            match waitpid(held, Some(WaitPidFlag::__WALL))? {
                WaitStatus::PtraceSyscall(_) => {
                    self.threads.insert(held, false);
                    return returned(held);
                }
                WaitStatus::Stopped(_, signal) => proceed(held, Some(signal))?,
                WaitStatus::Exited(_, code) => {
                    self.held = None;
                    self.gone(held, Ended::With(code));
                    return Err(io::Error::other("the thread ended in its call"));
                }
                WaitStatus::Signaled(_, signal, _) => {
                    self.held = None;
                    self.gone(held, Ended::By(signal as i32));
                    return Err(io::Error::other("the program was killed in its call"));
                }
                _ => proceed(held, None)?,
            }
        }
    }

    /// Lets the program go on to its end.
    ///
    /// # Errors
    /// Those of ptrace.
    pub fn finish(mut self) -> io::Result<Ended> {
        loop {
            if let Step::Ended(ended) = self.step()? {
                return Ok(ended);
            }
        }
    }

    /// Sends it a signal, which it gets when it goes on.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        Ok(kill(self.main, Signal::try_from(signal)?)?)
    }

    /// Kills it where it is: the call that it waits before is never made.
    ///
    /// # Errors
    /// Those of ptrace.
    pub fn kill(mut self) -> io::Result<()> {
        self.kill_and_wait()
    }

    fn kill_and_wait(&mut self) -> io::Result<()> {
        if self.ended.is_none() {
            kill(self.main, Signal::SIGKILL)?;
            self.held = None;
            while !matches!(self.step()?, Step::Ended(_)) {}
        }
        Ok(())
    }

    fn gone(&mut self, thread: Pid, ended: Ended) -> Option<Ended> {
        self.threads.remove(&thread);
        // The kernel tells of the first thread last.
        if thread == self.main {
            self.ended = Some(ended);
        }
        self.ended
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        // Otherwise the kernel kills it when this thread ends (PTRACE_O_EXITKILL).
        drop(self.kill_and_wait());
    }
}

/// Sends a stopped thread on. One that was killed meanwhile is gone already, and will be waited for.
fn proceed(thread: Pid, signal: Option<Signal>) -> io::Result<()> {
    match ptrace::syscall(thread, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// What the call returned that a thread waits behind.
fn returned(thread: Pid) -> io::Result<i64> {
    #[cfg(target_arch = "x86_64")]
    return Ok(ptrace::getregs(thread)?.rax.cast_signed());
    #[cfg(target_arch = "aarch64")]
    return Ok(ptrace::getregs(thread)?.regs[0].cast_signed());
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{thread}: not on this processor")));
}

/// What the arguments of a call name.
#[derive(Clone, Copy)]
enum Names {
    /// A file that is open.
    File,
    /// An open file that bytes go to; a pipe or a terminal is no disk.
    Written,
    /// A path.
    Path,
    /// Two paths.
    Paths,
    /// What a link points to, which is not used, and its path.
    Link,
    /// The same with the directory that the path is below.
    LinkBelow,
    /// All there is.
    Everything,
    /// A directory that is open, and a path below it.
    Below,
    /// The same to be opened, if the flags make a file.
    Open,
    /// The same with the flags in memory.
    Open2,
    /// From one directory and path to another.
    Two,
}

/// The call that a thread waits before, if it changes something.
fn change(thread: Pid) -> Option<Call> {
    use Names::{Below, Everything, File, Link, LinkBelow, Open, Open2, Path, Paths, Two, Written};
    use nix::libc;
    let text = std::fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let number: libc::c_long = fields.next()?.parse().ok()?;
    let hex = |field: &str| u64::from_str_radix(field.trim_start_matches("0x"), 16).ok();
    let arguments: Vec<u64> = fields.map_while(hex).collect();
    let (name, names) = match number {
        libc::SYS_write => ("write", Written),
        libc::SYS_writev => ("writev", Written),
        libc::SYS_pwrite64 => ("pwrite64", Written),
        libc::SYS_pwritev => ("pwritev", Written),
        libc::SYS_copy_file_range => ("copy_file_range", Written),
        libc::SYS_fsync => ("fsync", File),
        libc::SYS_fdatasync => ("fdatasync", File),
        libc::SYS_syncfs => ("syncfs", File),
        libc::SYS_ftruncate => ("ftruncate", File),
        libc::SYS_fallocate => ("fallocate", File),
        libc::SYS_fchmod => ("fchmod", File),
        libc::SYS_fchown => ("fchown", File),
        libc::SYS_fsetxattr => ("fsetxattr", File),
        libc::SYS_truncate => ("truncate", Path),
        libc::SYS_setxattr => ("setxattr", Path),
        libc::SYS_lsetxattr => ("lsetxattr", Path),
        libc::SYS_mkdirat => ("mkdirat", Below),
        libc::SYS_mknodat => ("mknodat", Below),
        libc::SYS_unlinkat => ("unlinkat", Below),
        libc::SYS_fchmodat => ("fchmodat", Below),
        libc::SYS_fchownat => ("fchownat", Below),
        libc::SYS_utimensat => ("utimensat", Below),
        libc::SYS_openat => ("openat", Open),
        libc::SYS_openat2 => ("openat2", Open2),
        libc::SYS_renameat => ("renameat", Two),
        libc::SYS_renameat2 => ("renameat2", Two),
        libc::SYS_linkat => ("linkat", Two),
        libc::SYS_symlinkat => ("symlinkat", LinkBelow),
        libc::SYS_sync => ("sync", Everything),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => ("mkdir", Path),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir => ("rmdir", Path),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => ("unlink", Path),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => ("rename", Paths),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link => ("link", Paths),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_symlink => ("symlink", Link),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => ("chmod", Path),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => ("creat", Path),
        _ => return None,
    };
    let at = |i: usize| arguments.get(i).copied().unwrap_or_default();
    let creates = |flags: u64| flags & u64::from((OFlags::CREATE | OFlags::TRUNC).bits()) != 0;
    let below = |directory: usize, path: usize| {
        let path = string(thread, at(path));
        // With an absolute path the directory does not count, and may be anything.
        if path.is_absolute() { path } else { directory_of(thread, at(directory)).join(path) }
    };
    let here = |path: usize| directory_of(thread, libc::AT_FDCWD as u64).join(string(thread, at(path)));
    let on = match names {
        Everything => Vec::new(),
        File => vec![file(thread, at(0))],
        Written => {
            let file = file(thread, at(if name == "copy_file_range" { 2 } else { 0 }));
            if !file.is_absolute() || file.starts_with("/dev") && !file.starts_with("/dev/shm") {
                return None;
            }
            vec![file]
        }
        Path => vec![here(0)],
        Paths => vec![here(0), here(1)],
        Link => vec![here(1)],
        LinkBelow => vec![below(1, 2)],
        Open if !creates(at(2)) => return None,
        Open2 if !creates(word(thread, at(2))) => return None,
        Below | Open | Open2 => vec![below(0, 1)],
        Two => vec![below(0, 1), below(2, 3)],
    };
    Some(Call { name, on, thread, arguments })
}

/// The path of an open file. Arguments are 64 bits wide and descriptors 32.
fn file(thread: Pid, descriptor: u64) -> PathBuf {
    let descriptor = descriptor as u32 as i32;
    std::fs::read_link(format!("/proc/{thread}/fd/{descriptor}")).unwrap_or_default()
}

/// The directory that a path is below: an open one, or the one that the program works in.
fn directory_of(thread: Pid, descriptor: u64) -> PathBuf {
    match descriptor as u32 as i32 {
        nix::libc::AT_FDCWD => std::fs::read_link(format!("/proc/{thread}/cwd")).unwrap_or_default(),
        _ => file(thread, descriptor),
    }
}

fn memory(thread: Pid, address: u64, buffer: &mut [u8]) -> usize {
    let memory = File::open(format!("/proc/{thread}/mem"));
    memory.and_then(|memory| memory.read_at(buffer, address)).unwrap_or(0)
}

fn word(thread: Pid, address: u64) -> u64 {
    let mut bytes = [0; 8];
    memory(thread, address, &mut bytes);
    u64::from_ne_bytes(bytes)
}

/// A string that ends with a zero, of at most `PATH_MAX` bytes with it.
fn string(thread: Pid, address: u64) -> PathBuf {
    let mut bytes = vec![0; 4096];
    let n = memory(thread, address, &mut bytes);
    // The memory behind the string may not be there to be read in one go; what could be read holds it.
    let end = bytes[..n].iter().position(|byte| *byte == 0).unwrap_or(n);
    bytes.truncate(end);
    OsString::from_vec(bytes).into()
}
