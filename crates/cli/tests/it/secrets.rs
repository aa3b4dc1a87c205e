//! No secret in the arguments or the environment of a child, nor in what we write (L-1).

use crate::home::Home;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

const CANARY: &str = "canary-7f3a-passphrase";

/// Watches all children of a process until it ends: how often it saw one, and where the canary was.
fn watch(parent: u32, done: &AtomicBool, n_seen: &AtomicUsize) -> Vec<String> {
    let mut leaks = Vec::new();
    while !done.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            if pid == parent || !status.contains(&format!("PPid:\t{parent}\n")) {
                continue;
            }
            // Between fork and exec a child is still ourselves.
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if exe.ends_with("hikae") {
                continue;
            }
            for file in ["cmdline", "environ"] {
                let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                n_seen.fetch_add(usize::from(!bytes.is_empty()), Ordering::Relaxed);
                if String::from_utf8_lossy(&bytes).contains(CANARY) {
                    leaks.push(format!("{file} of {}", exe.display()));
                }
            }
        }
    }
    leaks
}

#[test]
fn the_passphrase_reaches_no_child_and_no_file() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    let first = home.command(&["protect", "docs"]).env("HIKAE_PASSPHRASE", CANARY).output().unwrap();
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let config = home.path("config/hikae/config.toml");
    let hooks = "hooks = { before = [[\"sleep\", \"0.5\"]], after = [[\"sleep\", \"0.2\"]] }\n";
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text + hooks).unwrap();

    let mut child = home
        .command(&["backup"])
        .env("HIKAE_PASSPHRASE", CANARY)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (done, n_seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let watcher = {
        let (parent, done, n_seen) = (child.id(), done.clone(), n_seen.clone());
        thread::spawn(move || watch(parent, &done, &n_seen))
    };
    let status = child.wait().unwrap();
    done.store(true, Ordering::Relaxed);
    let mut leaks = watcher.join().unwrap();
    leaks.dedup();
    assert!(status.success());
    assert!(n_seen.load(Ordering::Relaxed) > 0, "no child was seen, so nothing was proved");
    assert_eq!(leaks, Vec::<String>::new());
    check_no_canary(&home.path(""));
}

fn check_no_canary(path: &std::path::Path) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| check_no_canary(&entry.unwrap().path()));
    } else if path.is_file() {
        let bytes = fs::read(path).unwrap();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{}", path.display());
    }
}

#[test]
fn the_passphrase_of_a_command_opens_what_the_variable_made() {
    let home = Home::new();
    home.write("docs/a.txt", "one");
    let first = home.command(&["protect", "docs"]).env("HIKAE_PASSPHRASE", CANARY).output().unwrap();
    assert!(first.status.success());
    let file = home.write_private("passphrase", format!("{CANARY}\n")).display().to_string();
    home.expect(0, &["list", "--passphrase-command", &format!("cat {file}")]);
    home.expect(11, &["list"]);
    home.expect(7, &["list", "--passphrase-command", "false"]);
}
