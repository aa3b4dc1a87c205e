//! Showing how far the work has come: a line that changes on a terminal, a line every few seconds elsewhere,
//! events for programs, nothing if quiet.

use crate::output::{Form, Output};
use hikae_model::{Bytes, Count, Cx, ProgressNow};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const ON_TERMINAL: Duration = Duration::from_millis(120);
const IN_EVENTS: Duration = Duration::from_secs(1);
const IN_LINES: Duration = Duration::from_secs(5);

/// Shows progress until it is dropped.
pub struct Display {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Display {
    /// Starts to show the progress of `cx`.
    pub fn start(output: &Arc<Output>, cx: &Cx) -> Self {
        if output.form == Form::Json || output.quiet {
            return Self { stop: None, thread: None };
        }
        let (stop, stopped) = channel();
        let (output, cx) = (output.clone(), cx.clone());
        let show = move || {
            let bar = output.is_watched().then(new_bar);
            let every = match (&bar, output.form) {
                (Some(_), _) => ON_TERMINAL,
                (None, Form::Text) => IN_LINES,
                (None, Form::Json | Form::JsonLines) => IN_EVENTS,
            };
            let mut watch = Watch::default();
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let now = cx.progress().now();
                if now.phase.verb.is_empty() {
                    continue;
                }
                let seconds = watch.seconds_in_phase(&now, cx.elapsed());
                match (&bar, output.form) {
                    (Some(bar), _) => draw(bar, &now, seconds),
                    (None, Form::Text) => output.note(&line(&now, seconds)),
                    (None, Form::Json | Form::JsonLines) => output.event("progress", &event(&now, seconds)),
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        };
        // Without a thread there is no progress to be seen, and the work goes on.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(show).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.stop = None; // the thread sees its channel closed
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// When the phase that is shown began.
#[derive(Default)]
struct Watch {
    phase: hikae_model::Phase,
    since: Duration,
}

impl Watch {
    fn seconds_in_phase(&mut self, now: &ProgressNow, elapsed: Duration) -> f64 {
        if self.phase != now.phase {
            self.phase = now.phase.clone();
            self.since = elapsed;
        }
        elapsed.saturating_sub(self.since).as_secs_f64()
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // The template is ours and parses; if it did not, indicatif's own would do.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

fn draw(bar: &ProgressBar, now: &ProgressNow, seconds: f64) {
    bar.set_message(crate::page::render(&line(now, seconds), false));
    bar.tick();
}

/// As `backing up docs  1,234 entries  1.2 GiB of 3.0 GiB (40 %)  250 MiB/s  30 s left`.
fn line(now: &ProgressNow, seconds: f64) -> String {
    let mut parts = vec![format!("{} {}", now.phase.verb, now.phase.on)];
    let done = now.read_bytes.max(now.stored_bytes);
    if now.entries > 0 {
        parts.push(format!("{} entries", Count(now.entries)));
    }
    if now.total_bytes > 0 {
        let percent = (done.min(now.total_bytes) as f64 / now.total_bytes as f64 * 100.0).floor();
        parts.push(format!("{} of {} ({percent:.0} %)", Bytes(done), Bytes(now.total_bytes)));
    } else if done > 0 {
        parts.push(Bytes(done).to_string());
    }
    let all_read = now.total_bytes > 0 && done >= now.total_bytes;
    if seconds >= 1.0 && done > 0 && !all_read {
        let rate = done as f64 / seconds;
        parts.push(format!("{}/s", Bytes(rate as u64)));
        if now.total_bytes > done && seconds >= 3.0 {
            let left = (now.total_bytes - done) as f64 / rate;
            parts.push(format!("{} left", crate::page::duration(left.max(1.0))));
        }
    }
    if now.problems > 0 {
        parts.push(crate::page::count(now.problems, "problem", "problems"));
    }
    parts.join("  ")
}

fn event(now: &ProgressNow, seconds: f64) -> serde_json::Value {
    json!({
        "verb": now.phase.verb,
        "on": now.phase.on,
        "entries": now.entries,
        "read_bytes": now.read_bytes,
        "stored_bytes": now.stored_bytes,
        "total_bytes": now.total_bytes,
        "problems": now.problems,
        "seconds": seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hikae_model::Phase;

    #[test]
    fn a_line_of_progress_says_what_is_known_and_no_more() {
        let now = ProgressNow {
            phase: Phase { verb: "backing up", on: "docs".to_owned() },
            entries: 1234,
            read_bytes: 300 << 20,
            stored_bytes: 0,
            total_bytes: 1200 << 20,
            problems: 1,
        };
        assert_eq!(
            line(&now, 10.0),
            "backing up docs  1,234 entries  300.0 MiB of 1.2 GiB (25 %)  30.0 MiB/s  30 s left  1 problem"
        );
        let nothing = ProgressNow { phase: now.phase.clone(), ..ProgressNow::default() };
        assert_eq!(line(&nothing, 0.1), "backing up docs");
    }
}
