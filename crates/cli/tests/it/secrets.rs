//! No secret in the arguments or the environment of a child, nor in what we write (L-1).

use crate::home::Home;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const CANARY: &str = "canary-7f3a-passphrase";

/// Runs a command and watches all its children until it ends. Where the canary was among them; at least one
/// must have been seen.
pub fn leaks_to_children(mut command: Command, canary: &str) -> Vec<String> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (done, n_seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    let parent = child.id();
    let mut leaks = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(parent, canary, &done, &n_seen));
        let status = child.wait().unwrap();
        done.store(true, Ordering::Relaxed);
        assert!(status.success());
        watcher.join().unwrap()
    });
    assert!(n_seen.load(Ordering::Relaxed) > 0, "no child was seen, so nothing was proved");
    leaks.sort();
    leaks.dedup();
    leaks
}

fn watch(parent: u32, canary: &str, done: &AtomicBool, n_seen: &AtomicUsize) -> Vec<String> {
    let mut leaks = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let processes: Vec<(u32, u32)> =
            fs::read_dir("/proc").unwrap().flatten().filter_map(process).collect();
        for (pid, above) in &processes {
            let grandparent = processes.iter().find(|(pid, _)| pid == above).map(|(_, above)| *above);
            if *above != parent && grandparent != Some(parent) {
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
                if String::from_utf8_lossy(&bytes).contains(canary) {
                    leaks.push(format!("{file} of {}", exe.display()));
                }
            }
        }
    }
    leaks
}

/// A process and the one that started it.
fn process(entry: fs::DirEntry) -> Option<(u32, u32)> {
    let pid = entry.file_name().to_string_lossy().parse().ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let above = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Some((pid, above.trim().parse().ok()?))
}

/// Keeps X-8.
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

    let mut command = home.command(&["backup"]);
    command.env("HIKAE_PASSPHRASE", CANARY);
    assert_eq!(leaks_to_children(command, CANARY), Vec::<String>::new());
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

/// Keeps X-8.
#[test]
fn a_secret_file_is_shown_only_to_who_asks_for_it() {
    let home = Home::new();
    home.write("app/.env", "KEY=canary\n");
    home.write("app/public", "hello\n");
    home.expect(0, &["protect", "app"]);
    let app = home.path("app").display().to_string();
    let config = std::fs::read_to_string(home.path("config/hikae/config.toml")).unwrap();
    let include = format!("include = [\"{app}\"]");
    assert!(config.contains(&include));
    let secret = format!("include = [\"{app}\", {{ path = \"{app}/.env\", secret = true }}]");
    home.configure(&config.replace(&include, &secret));
    let env = format!("{app}/.env");
    let refused = home.expect(12, &["cat", "app", &env]);
    assert!(refused.stdout.is_empty() && refused.stderr.contains("--reveal"), "{}", refused.stderr);
    assert_eq!(home.expect(0, &["cat", "app", &env, "--reveal"]).stdout, "KEY=canary\n");
    assert_eq!(home.expect(0, &["cat", "app", &format!("{app}/public")]).stdout, "hello\n");
}

/// Keeps I-7.
#[test]
fn a_crash_leaves_no_core_with_keys_in_it() {
    let home = Home::new();
    let ready = home.path("ready");
    // Both wait in a child of theirs when they crash.
    let wait = format!("touch {}; sleep 5", ready.display());
    let crash = |program: &Command| {
        let mut command = Command::new("prlimit");
        command.arg("--core=unlimited").arg(program.get_program()).args(program.get_args());
        command
            .envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(home.path(""));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !ready.exists() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could crash");
            thread::sleep(Duration::from_millis(10));
        }
        fs::remove_file(&ready).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
        child.wait().unwrap()
    };
    let mut other = Command::new("sh");
    other.args(["-c", &format!("{wait}; true")]);
    if !crash(&other).core_dumped() {
        return hikae_testkit::not_run("no program leaves a core on this machine");
    }
    home.write("docs/a.txt", "one");
    home.expect(0, &["protect", "docs"]);
    let config = home.path("config/hikae/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}hooks = {{ before = [[\"sh\", \"-c\", \"{wait}\"]] }}\n")).unwrap();
    let ended = crash(&home.command(&["backup"]));
    assert_eq!(ended.signal(), Some(6), "{ended}");
    assert!(!ended.core_dumped(), "{ended}");
}
