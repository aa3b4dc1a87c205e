//! Ctrl-C: the run ends soon and with 130, and the next one is fine.

use crate::home::Home;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn an_interrupted_run_ends_with_130_and_leaves_a_good_repository() {
    for signal in ["INT", "TERM", "HUP"] {
        let home = Home::new();
        home.write("docs/a.txt", "one");
        home.expect(0, &["protect", "docs"]);
        // The hook holds the run in its middle.
        let config = home.path("config/hikae/config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        for n in 0..2000 {
            std::fs::write(home.path(&format!("docs/{n}")), format!("file {n}").repeat(2000)).unwrap();
        }
        std::fs::write(&config, format!("{text}hooks = {{ before = [[\"sleep\", \"1\"]] }}\n")).unwrap();
        let mut child =
            home.command(&["backup"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(400));
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(130), "after SIG{signal}");
        std::fs::write(&config, text).unwrap();
        assert_eq!(home.json(&["list"])["result"].as_array().unwrap().len(), 1);
        home.expect(0, &["protect"]);
        home.expect(0, &["verify", "--read-data"]);
    }
}
