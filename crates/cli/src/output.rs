//! Where results, notes and errors go, in the form that was asked for.
//!
//! ```text
//!                 stdout                            stderr
//! text            the result                        progress, notes, errors
//! --json          one object: result or error,      nothing
//!                 with the warnings in it
//! --json-lines    events, the result or error last  nothing
//! ```

use crate::failure::{Ended, Failure};
use crate::page::{Mark, marked, render, time};
use hikae_model::Step;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The form of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text for people.
    Text,
    /// One JSON object.
    Json,
    /// One JSON object a line.
    JsonLines,
}

/// Where results, notes and errors go.
#[derive(Debug)]
pub struct Output {
    /// The form.
    pub form: Form,
    /// No progress and no notes.
    pub quiet: bool,
    /// The command, as JSON names it.
    pub command: String,
    /// Warnings that the one object of `--json` will hold.
    warnings: Mutex<Vec<Value>>,
    colour_out: bool,
    colour_err: bool,
}

impl Output {
    /// Output of a command; colours where a terminal is, unless `no_color`.
    pub fn new(form: Form, quiet: bool, no_color: bool, command: &str) -> Self {
        Self {
            form,
            quiet,
            command: command.to_owned(),
            warnings: Mutex::default(),
            colour_out: !no_color && io::stdout().is_terminal(),
            colour_err: !no_color && io::stderr().is_terminal(),
        }
    }

    /// True if somebody looks at progress on a terminal.
    pub fn is_watched(&self) -> bool {
        self.form == Form::Text && !self.quiet && io::stderr().is_terminal()
    }

    /// The result: text for people, or `value` for programs. Call it once a command.
    pub fn result(&self, ended: Ended, value: &impl Serialize, text: &str) {
        match self.form {
            Form::Text => self.put(&render(text, self.colour_out)),
            Form::Json => self.put_json(&json!({
                "command": self.command,
                "status": ended.name(),
                "exit_code": ended.exit_code(),
                "warnings": self.warnings(),
                "result": value,
            })),
            Form::JsonLines => self.put_json(&json!({
                "event": "result",
                "command": self.command,
                "status": ended.name(),
                "exit_code": ended.exit_code(),
                "result": value,
            })),
        }
    }

    /// A line of a result that is too long to be held, in text form.
    pub fn line(&self, text: &str) {
        if self.form == Form::Text {
            self.put(&render(text, self.colour_out));
            self.put("\n");
        }
    }

    /// An event of `--json-lines`.
    pub fn event(&self, name: &str, value: &impl Serialize) {
        if self.form == Form::JsonLines {
            let mut event = json!({ "event": name });
            if let (Some(event), Ok(Value::Object(fields))) =
                (event.as_object_mut(), serde_json::to_value(value))
            {
                event.extend(fields);
            }
            self.put_json(&event);
        }
    }

    /// Something that came about in a run: an event, or a line of a log on stderr.
    pub fn step(&self, step: &Step, zone: &TimeZone) {
        let Step { at, name, on, what } = step;
        self.event("step", &json!({ "time": at, "step": name, "on": on, "what": what }));
        let named = [*name, on.as_str()]
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
        self.note(&format!("{}  {named}: {what}", time(*at, zone)));
    }

    /// Something to know that is no result, on stderr.
    pub fn note(&self, text: &str) {
        if self.form == Form::Text && !self.quiet {
            // Notes are a courtesy: nothing is done about a stderr that is gone.
            drop(writeln!(io::stderr().lock(), "{}", render(text, self.colour_err)));
        }
    }

    /// Something that the user must know even if the rest is quiet, on stderr.
    pub fn warning(&self, text: &str, hint: Option<&str>) {
        match self.form {
            Form::Text => {
                let mut warning = format!("{} {text}\n", marked(Mark::Doubtful, "warning:"));
                if let Some(hint) = hint {
                    warning.push_str(&format!("{} {hint}\n", marked(Mark::Faint, "hint:")));
                }
                drop(write!(io::stderr().lock(), "{}", render(&warning, self.colour_err)));
            }
            Form::Json => self.lock_warnings().push(json!({ "message": text, "hint": hint })),
            Form::JsonLines => self.event("warning", &json!({ "message": text, "hint": hint })),
        }
    }

    /// The error that ended the command.
    pub fn failure(&self, failure: &Failure) {
        let (message, hint) = (failure.message(), failure.advice());
        let code = failure.code();
        match self.form {
            Form::Text => {
                let mut text = String::new();
                for line in message.lines() {
                    text.push_str(&format!("{} {line}\n", marked(Mark::Bad, "error:")));
                }
                if let Some(hint) = hint {
                    for line in hint.lines() {
                        text.push_str(&format!("{} {line}\n", marked(Mark::Strong, "hint:")));
                    }
                }
                drop(write!(io::stderr().lock(), "{}", render(&text, self.colour_err)));
            }
            Form::Json => self.put_json(&json!({
                "command": self.command,
                "status": code.name(),
                "exit_code": code.exit_code(),
                "warnings": self.warnings(),
                "error": { "code": code.name(), "message": message, "hint": hint },
            })),
            Form::JsonLines => self.put_json(&json!({
                "event": "exit_error",
                "command": self.command,
                "code": code.name(),
                "exit_code": code.exit_code(),
                "message": message,
                "hint": hint,
            })),
        }
    }

    fn warnings(&self) -> Vec<Value> {
        self.lock_warnings().clone()
    }

    fn lock_warnings(&self) -> MutexGuard<'_, Vec<Value>> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_json(&self, value: &Value) {
        self.put(&format!("{value}\n"));
    }

    /// Writes to stdout. A reader that went away has read enough; any other failure is one.
    fn put(&self, text: &str) {
        match io::stdout().lock().write_all(text.as_bytes()).and_then(|()| io::stdout().lock().flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                drop(writeln!(io::stderr().lock(), "error: cannot write the result: {error}"));
                std::process::exit(1);
            }
            _ => {}
        }
    }
}
