//! Disks to fill and to cut off. They need root, and where they cannot be had the test says so.

use hikae_testkit::not_run;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A mounted file system, unmounted when dropped.
pub struct Disk {
    directory: TempDir,
    image: Option<PathBuf>,
}

/// Runs a program and gives what it complains about.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let ran = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&ran.stderr).trim())),
    }
}

impl Disk {
    /// A disk of memory with these options of tmpfs.
    #[track_caller]
    pub fn of_memory(options: &str) -> Option<Self> {
        let disk = Self { directory: tempfile::tempdir().unwrap(), image: None };
        let mounted = run("mount", &["-t", "tmpfs", "-o", options, "hikae-test", disk.path().to_str()?]);
        disk.if_mounted(mounted)
    }

    /// An ext4 file system in a file. It writes what was not synced as late as it can.
    #[track_caller]
    pub fn ext4(mebibytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().with_extension("ext4");
        std::fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let disk = Self { directory, image: Some(image) };
        let made = run("mkfs.ext4", &["-q", "-F", disk.image.as_ref()?.to_str()?]);
        let mounted = made.and_then(|()| disk.mount());
        disk.if_mounted(mounted)
    }

    #[track_caller]
    fn if_mounted(self, result: Result<(), String>) -> Option<Self> {
        match result {
            Ok(()) => Some(self),
            Err(why) if rustix::process::geteuid().is_root() => {
                not_run(&format!("cannot mount: {why}"));
                None
            }
            Err(_) => {
                not_run("needs root to mount a disk");
                None
            }
        }
    }

    fn mount(&self) -> Result<(), String> {
        let image = self.image.as_deref().and_then(Path::to_str).unwrap_or_default();
        run("mount", &["-o", "loop,commit=60", image, self.path().to_str().unwrap_or_default()])
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Changes options while it is mounted, as its size.
    pub fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), self.path().to_str().unwrap()]).unwrap();
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        let disk = rustix::fs::statvfs(self.path()).unwrap();
        (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    }

    /// Waits until all that was written is on it.
    pub fn sync(&self) {
        rustix::fs::syncfs(std::fs::File::open(self.path()).unwrap()).unwrap();
    }

    /// Cuts the power: nothing that is not on the disk by now ever gets there. `FS_IOC_SHUTDOWN` with
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH` (`fs/ext4/ioctl.c` in Linux).
    pub fn cut(&self) -> Result<(), String> {
        let program = "import fcntl, os, struct, sys\n\
                       directory = os.open(sys.argv[1], os.O_RDONLY)\n\
                       fcntl.ioctl(directory, 0x8004587d, struct.pack('I', 2))\n";
        run("python3", &["-c", program, self.path().to_str().unwrap_or_default()])
    }

    /// Turns the power on again.
    pub fn power_on(&self) {
        // A process that was just killed may still be on its way out.
        let path = self.path().to_str().unwrap();
        let unmounted = (0..50).any(|_| {
            let done = run("umount", &[path]).is_ok();
            if !done {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            done
        });
        assert!(unmounted, "{path} stays busy");
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(run("umount", &["-l", self.path().to_str().unwrap_or_default()]));
        if let Some(image) = &self.image {
            drop(std::fs::remove_file(image));
        }
    }
}
