//! What PostgreSQL's own programs write, as content: definitions, large objects, globals.

use super::held::{PartOutcome, Shared, Tools};
use crate::SourceError;
use crate::postgresql::failed;
use crate::postgresql::preflight::Look;
use crate::postgresql::programs::{Programs, Running};
use crate::postgresql::settings::PostgresqlSettings;
use hikae_model::{ContentError, ErrorCode, ReadContent, Stretch, sabotage};
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::{ChildStdin, Stdio};
use std::sync::Arc;

/// A constant makes the tokens of `\restrict` the same in every run, so that they deduplicate. The key
/// guards psql against a hostile server; nothing of ours feeds psql.
const RESTRICT_KEY: &str = "hikae";

pub(super) fn globals_arguments(shared: &Shared, tools: &Tools, look: &Look) -> Vec<OsString> {
    // libpq reads a database's name as a connection string if it looks like one, so it is given as one.
    let name = shared.connection.database.replace('\\', "\\\\").replace('\'', "\\'");
    let mut arguments: Vec<OsString> = vec![
        "--globals-only".into(),
        "--no-password".into(),
        format!("--database=dbname='{name}'").into(),
        format!("--dbname={}", tools.conninfo).into(),
    ];
    if !look.may_read_passwords {
        arguments.push("--no-role-passwords".into());
    }
    if knows_restrict_key(&tools.programs) {
        arguments.push(format!("--restrict-key={RESTRICT_KEY}").into());
    }
    arguments
}

fn dump_arguments(shared: &Shared, tools: &Tools, settings: &PostgresqlSettings) -> Vec<OsString> {
    vec![
        "--format=custom".into(),
        "--compress=0".into(),
        "--no-password".into(),
        format!("--lock-wait-timeout={}", settings.lock_timeout_ms()).into(),
        format!("--snapshot={}", shared.snapshot).into(),
        format!("--dbname={}", tools.conninfo).into(),
    ]
}

pub(super) fn schema_arguments(
    shared: &Shared,
    tools: &Tools,
    look: &Look,
    settings: &PostgresqlSettings,
) -> Vec<OsString> {
    let mut arguments = dump_arguments(shared, tools, settings);
    arguments.push("--schema-only".into());
    for relation in look.relations.iter().filter(|relation| look.selection.left_out.contains(&relation.oid)) {
        // Within double quotes a pattern of pg_dump has no special characters.
        arguments.push(format!("--exclude-table={}", relation.quoted()).into());
    }
    arguments
}

pub(super) fn large_objects_arguments(
    shared: &Shared,
    tools: &Tools,
    settings: &PostgresqlSettings,
) -> Vec<OsString> {
    let mut arguments = dump_arguments(shared, tools, settings);
    arguments.extend(["--data-only".into(), "--blobs".into(), "--exclude-table=*.*".into()]);
    arguments
}

/// Since the fix of CVE-2025-8714.
fn knows_restrict_key(programs: &Programs) -> bool {
    let minor: u32 = programs.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0);
    match programs.major {
        13 => minor >= 22,
        14 => minor >= 19,
        15 => minor >= 14,
        16 => minor >= 10,
        17 => minor >= 6,
        major => major >= 18,
    }
}

/// How a program's output shows that it is whole, besides the exit code.
#[derive(Clone, Copy)]
pub(super) enum Whole {
    /// `pg_restore` reads all of it.
    Archive,
    /// It ends as a whole script does.
    Trailer,
}

/// Stands at the end of what `pg_dumpall` writes.
pub(in crate::postgresql) const TRAILER: &[u8] = b"-- PostgreSQL database cluster dump complete";

/// The output of one of PostgreSQL's programs.
pub(super) struct ProgramContent {
    shared: Arc<Shared>,
    tools: Arc<Tools>,
    part: usize,
    program: &'static str,
    arguments: Vec<OsString>,
    whole: Whole,
    state: Option<ProgramState>,
}

struct ProgramState {
    running: Option<Running>,
    output: std::process::ChildStdout,
    /// `pg_restore`, which reads along.
    reader: Option<(Running, ChildStdin)>,
    tail: Vec<u8>,
}

impl ProgramContent {
    pub(super) fn new(
        (shared, tools): (&Arc<Shared>, &Arc<Tools>),
        part: usize,
        program: &'static str,
        arguments: Vec<OsString>,
        whole: Whole,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            tools: Arc::clone(tools),
            part,
            program,
            arguments,
            whole,
            state: None,
        }
    }

    fn start(&self) -> Result<ProgramState, SourceError> {
        let programs = &self.tools.programs;
        let path = programs.path(self.program);
        let mut running = Running::start(&path, &self.arguments, None, Stdio::null(), Stdio::piped())?;
        let output = running.stdout();
        let output =
            output.ok_or_else(|| failed(ErrorCode::Failure, "a program has no output".into(), None))?;
        let reader = match self.whole {
            Whole::Trailer => None,
            Whole::Archive => {
                let arguments = ["--file=/dev/null".into()];
                let path = programs.path("pg_restore");
                let mut reader = Running::start(&path, &arguments, None, Stdio::piped(), Stdio::null())?;
                reader.stdin().map(|stdin| (reader, stdin))
            }
        };
        Ok(ProgramState { running: Some(running), output, reader, tail: Vec::new() })
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, String> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => self.start().map_err(|error| error.to_string())?,
        };
        let n = loop {
            match state.output.read(buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| format!("{}: {error}", self.program))?,
            }
        };
        if n > 0 {
            // An error here is one of the reading program, which says at its end why it went.
            let passed_on =
                state.reader.as_mut().is_none_or(|(_, stdin)| stdin.write_all(&buffer[..n]).is_ok());
            if !passed_on && let Some((reader, stdin)) = state.reader.take() {
                drop(stdin);
                reader.finish()?;
                return Err(format!("pg_restore stopped reading what {} wrote", self.program));
            }
            state.tail.extend(&buffer[..n]);
            let cut = state.tail.len().saturating_sub(1024);
            state.tail.drain(..cut);
            self.state = Some(state);
            return Ok(n);
        }
        state.running.take().map_or(Ok(()), Running::finish)?;
        match (self.whole, state.reader.take()) {
            (Whole::Archive, Some((reader, stdin))) => {
                drop(stdin);
                reader
                    .finish()
                    .map_err(|error| format!("what {} wrote is not whole: {error}", self.program))?;
            }
            (Whole::Archive, None) => return Err(format!("nothing looked at what {} wrote", self.program)),
            (Whole::Trailer, _) => {
                let is_whole = state.tail.windows(TRAILER.len()).any(|window| window == TRAILER);
                if !is_whole && !sabotage::on("no-trailer-needed") {
                    return Err(format!("what {} wrote has no end", self.program));
                }
            }
        }
        Ok(0)
    }
}

impl ReadContent for ProgramContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Stretch, ContentError> {
        match self.read_some(buffer) {
            Ok(0) => {
                self.shared.set(self.part, PartOutcome::Read(None));
                Ok(Stretch::End)
            }
            Ok(n) => Ok(Stretch::Data(n)),
            Err(what) => Err(self.shared.broken(self.part, what)),
        }
    }
}
