//! What subcommands share: the configuration, the repository, the context, and where their output goes.

use crate::args::Global;
use crate::environment;
use crate::failure::Failure;
use crate::output::{Form, Output};
use crate::progress::Display;
use crate::signals;
use hikae_model::{Advise as _, Cx, ErrorCode, SnapshotId};
use hikae_ops::config::{Config, ConfigError};
use hikae_ops::open::{KeyChoice, Limit, Place, passphrase_of_command};
use hikae_ops::select::SnapshotSelector;
use hikae_ops::store::StorePlace;
use hikae_ops::surroundings::Surroundings;
use hikae_ops::{Repo, RepoError, SnapshotState, State};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use zeroize::Zeroizing;

/// One invocation of hikae.
pub struct App {
    /// What every subcommand takes.
    pub global: Global,
    /// Home, directories, zone.
    pub around: Surroundings,
    /// Where output goes.
    pub output: Arc<Output>,
    /// Clock, randomness, cancellation, progress.
    pub cx: Cx,
    /// `HIKAE_PASSPHRASE`, if it was set.
    passphrase: Option<Zeroizing<String>>,
    /// What the configuration warns of was told.
    warned: AtomicBool,
}

impl App {
    /// Puts together what the subcommand named `command` needs.
    pub fn new(
        global: Global,
        command: &str,
        passphrase: Option<Zeroizing<String>>,
        umask: u32,
        cx: Cx,
    ) -> Self {
        let form = match (global.json, global.json_lines) {
            (true, _) => Form::Json,
            (_, true) => Form::JsonLines,
            (false, false) => Form::Text,
        };
        let no_color = global.no_color || environment::is_set("NO_COLOR");
        let mut around = environment::surroundings(global.cache.as_deref(), umask);
        if let Some(scratch) = &global.scratch {
            around.scratch.clone_from(scratch);
        }
        let output = Arc::new(Output::new(form, global.quiet, no_color, command));
        if form == Form::JsonLines || global.verbose {
            let (output, zone) = (output.clone(), around.zone.clone());
            cx.progress().follow(move |step| output.step(step, &zone));
        }
        Self { global, around, output, cx, passphrase, warned: AtomicBool::new(false) }
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`ConfigError`] if there is none, or it is wrong.
    pub fn config(&self) -> Result<Config, Failure> {
        match Config::find(self.global.config.as_deref(), &self.around) {
            Some(path) => Ok(self.load(&path)?),
            None => Err(ConfigError::None { looked_for: Config::places(&self.around).into() }.into()),
        }
    }

    /// The configuration, or an empty one if none is named and none is in the usual places.
    ///
    /// # Errors
    /// [`ConfigError`] if it is wrong.
    pub fn config_or_none(&self) -> Result<Config, Failure> {
        match Config::find(self.global.config.as_deref(), &self.around) {
            Some(path) => Ok(self.load(&path)?),
            None => Ok(Config::default()),
        }
    }

    fn load(&self, path: &Path) -> Result<Config, ConfigError> {
        let config = Config::load(path)?;
        let told = self.warned.swap(true, Ordering::Relaxed);
        for warning in config.warnings.iter().filter(|_| !told) {
            self.output.warning(&warning.to_string(), warning.advice.as_deref());
        }
        Ok(config)
    }

    /// What the command line gives to open a repository with.
    ///
    /// # Errors
    /// A file or a program that does not tell its secret.
    pub fn key(&self) -> Result<Option<KeyChoice>, Failure> {
        let global = &self.global;
        Ok(if let Some(sheet) = &global.recovery {
            Some(KeyChoice::Recovery(read_recovery(sheet)?))
        } else if let Some(file) = &global.key_file {
            Some(KeyChoice::KeyFile(absolute(file)?))
        } else if let Some(command) = &global.passphrase_command {
            Some(KeyChoice::Passphrase(passphrase_of_command(command, &self.around, &self.cx)?))
        } else if let Some(passphrase) = &self.passphrase {
            Some(KeyChoice::Passphrase(passphrase.clone()))
        } else {
            global.identity.as_deref().map(absolute).transpose()?.map(KeyChoice::IdentityFile)
        })
    }

    /// Where the repository is and what opens it, by command line, configuration or, on a terminal, question.
    ///
    /// # Errors
    /// Neither configuration nor command line says where it is, or a secret cannot be had.
    pub fn place(&self) -> Result<Place, Failure> {
        self.place_of(None)
    }

    /// The same, of the repository that a job names, unless the command line names another.
    fn place_of(&self, of_job: Option<&str>) -> Result<Place, Failure> {
        let mut place = self.place_without_question(of_job)?;
        if let Some(identity) = &self.global.identity
            && !matches!(place.key, Some(KeyChoice::IdentityFile(_)))
        {
            place.identities.push(absolute(identity)?);
        }
        if place.key.is_none() && self.may_ask() && place.has_repository(&self.cx) {
            place.key = Some(KeyChoice::Passphrase(ask_passphrase("Passphrase")?));
        }
        Ok(place)
    }

    /// The same without a question: for a repository that is to be made.
    ///
    /// # Errors
    /// As for [`place`](Self::place).
    pub fn place_of_new(&self) -> Result<Place, Failure> {
        self.place_without_question(None)
    }

    /// The same for one that is to be like another: a recovery sheet is that other's, and what opens the new one its
    /// configuration says.
    ///
    /// # Errors
    /// As for [`place`](Self::place).
    pub fn place_of_new_like(&self) -> Result<Place, Failure> {
        self.place_with(self.key()?.filter(|key| !matches!(key, KeyChoice::Recovery(_))), None)
    }

    /// Another repository than the one that the command line names, by its name in the configuration, its directory or
    /// its bucket. What the configuration says opens it, else what the command line gives.
    ///
    /// # Errors
    /// As for [`place`](Self::place).
    pub fn place_of_other(&self, named: &Path) -> Result<Place, Failure> {
        // A name that no configuration has may still be a directory's.
        let is_place =
            |name: &str| name.contains(['/', ':']) || self.is_no_repository(name) && named.is_dir();
        let Some(name) = named.to_str().filter(|name| !is_place(name)) else {
            let store = StorePlace::parse(named, &self.around, &self.cx)?;
            let key = match self.key()? {
                Some(key) => Some(key),
                // Those of one family are often opened by one key.
                None => self.place_of_new().ok().and_then(|own| own.key),
            };
            return Ok(self.limited(Place::at(store, key)));
        };
        let config = self.config()?;
        let (_, repository) = config.repository(Some(name))?;
        let key = if repository.unlock.is_some() { None } else { self.key()? };
        Ok(self.limited(Place::of(repository, key, &self.around, &self.cx)?))
    }

    fn is_no_repository(&self, name: &str) -> bool {
        !self.config_or_none().is_ok_and(|config| config.repositories.contains_key(name))
    }

    fn place_without_question(&self, of_job: Option<&str>) -> Result<Place, Failure> {
        self.place_with(self.key()?, of_job)
    }

    fn place_with(&self, key: Option<KeyChoice>, of_job: Option<&str>) -> Result<Place, Failure> {
        match &self.global.store {
            Some(store) => {
                Ok(self.limited(Place::at(StorePlace::parse(store, &self.around, &self.cx)?, key)))
            }
            None => {
                let config = self.config()?;
                let (_, repository) = config.repository(self.global.repository.as_deref().or(of_job))?;
                Ok(self.limited(Place::of(repository, key, &self.around, &self.cx)?))
            }
        }
    }

    fn limited(&self, place: Place) -> Place {
        Place { limit: self.limit().or(place.limit), ..place }
    }

    /// How fast the command line allows a repository to be written and read, which goes before the configuration.
    pub fn limit(&self) -> Limit {
        Limit {
            up: self.global.limit_upload.map(|rate| rate.0),
            down: self.global.limit_download.map(|rate| rate.0),
        }
    }

    /// Where each repository is that the command line or else the configuration names. No key is asked for.
    ///
    /// # Errors
    /// As for [`place`](Self::place).
    pub fn places(&self) -> Result<Vec<Place>, Failure> {
        if self.global.store.is_some() || self.global.repository.is_some() {
            return Ok(vec![self.place_of_new()?]);
        }
        let (config, key) = (self.config()?, self.key()?);
        let place =
            |repository| Ok(self.limited(Place::of(repository, key.clone(), &self.around, &self.cx)?));
        config.repositories.values().map(place).collect()
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// As for [`place`](Self::place), and whatever is wrong with the repository or the key.
    pub fn open(&self) -> Result<Arc<Repo>, Failure> {
        self.open_of(None)
    }

    /// Opens the repository that a job names, unless the command line names another.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_of(&self, of_job: Option<&str>) -> Result<Arc<Repo>, Failure> {
        self.open_place(&self.place_of(of_job)?)
    }

    /// Opens the repository that is at a place, and tells what is to be known of it.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_place(&self, place: &Place) -> Result<Arc<Repo>, Failure> {
        let opened = place.open(&self.around, &self.cx)?;
        for problem in &opened.repaired {
            self.output.warning(&problem.to_string(), problem.advice.as_deref());
        }
        for doubt in opened.repo.doubts() {
            self.output.warning(&doubt.to_string(), doubt.advice().as_deref());
        }
        Ok(opened.repo)
    }

    /// What the configuration calls the repository that is used; nothing if the command line says where it is.
    ///
    /// # Errors
    /// [`ConfigError`] if there are several and none was named.
    pub fn repository_name<'c>(
        &self,
        config: &'c Config,
        of_job: Option<&str>,
    ) -> Result<Option<&'c str>, Failure> {
        if self.global.store.is_some() {
            return Ok(None);
        }
        Ok(Some(config.repository(self.global.repository.as_deref().or(of_job))?.0))
    }

    /// The newest state, to look through all snapshots: those whose record cannot be read count as set aside. Warns of
    /// each of them.
    ///
    /// # Errors
    /// Any failure to read that is no damage.
    pub fn readable(&self, repo: &Repo) -> Result<State, Failure> {
        let (state, aside) = repo.readable()?;
        for (id, why) in &aside {
            self.warn_of_lost(&state, *id, why.as_ref());
        }
        Ok(state)
    }

    /// The snapshot that is meant. One whose record cannot be read counts as set aside, and the next that may be meant is
    /// tried; the records of others are not read. Warns of those that were passed by.
    ///
    /// # Errors
    /// That there is none, or any failure to read that is no damage.
    pub fn choose(
        &self,
        repo: &Repo,
        selector: &SnapshotSelector,
        source: Option<&str>,
    ) -> Result<Chosen, Failure> {
        let mut state = (*repo.follow()?).clone();
        loop {
            let id = selector.resolve(&state, source, &self.around.zone)?.snapshot.id;
            match repo.snapshot(id) {
                Ok(_) => {}
                Err(error) if error.is_damage() => {
                    // One that is named by its id is meant all the same: what is wrong with it, the caller will say.
                    if state.set_aside.insert(id) {
                        self.warn_of_lost(&state, id, Some(&error));
                        continue;
                    }
                }
                Err(error) => return Err(error.into()),
            }
            return Ok(Chosen { state, id });
        }
    }

    fn warn_of_lost(&self, state: &State, id: SnapshotId, why: Option<&RepoError>) {
        let source = state.snapshots.get(&id).map_or("", |known| &known.snapshot.source);
        let what = why.map_or("it is set aside".to_owned(), ToString::to_string);
        self.output.warning(
            &format!("snapshot {} of {source} counts for nothing: {what}", id.short()),
            Some("run `hikae verify` for the extent, then `hikae repo repair`"),
        );
    }

    /// Shows progress until what this gives is dropped.
    pub fn progress(&self) -> Display {
        Display::start(&self.output, &self.cx)
    }

    /// True if there is somebody to ask.
    pub fn may_ask(&self) -> bool {
        self.output.form == Form::Text && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks for something dear to be confirmed by typing `name`. Without a terminal it is refused.
    ///
    /// # Errors
    /// [`ErrorCode::Cancelled`] if anything else is typed, [`ErrorCode::Usage`] if nobody can be asked.
    pub fn confirm(&self, what: &str, name: &str) -> Result<(), Failure> {
        if !self.may_ask() {
            let advice = "add --yes if that is what you want, or see first with --dry-run";
            return Err(Failure::new(
                ErrorCode::Usage,
                format!("{what}, and nobody can be asked"),
                Some(advice.into()),
            ));
        }
        self.output
            .note(&format!("{what}.\nType {name} to go on, anything else to leave everything as it is:"));
        let mut line = String::new();
        let answer = signals::while_asking(|| io::stdin().read_line(&mut line));
        answer.map_err(|error| Failure::of_io("read the answer", &error))?;
        match line.trim() == name {
            true => Ok(()),
            false => Err(Failure::new(ErrorCode::Cancelled, "cancelled; nothing was changed", None)),
        }
    }

    /// A moment in UTC to the last digit, and in the reader's zone.
    pub fn exactly(&self, moment: jiff::Timestamp) -> String {
        format!("{moment} ({})", self.time(moment))
    }

    /// A moment in the reader's zone.
    pub fn time(&self, moment: jiff::Timestamp) -> String {
        crate::page::time(moment, &self.around.zone)
    }
}

/// A snapshot that was chosen.
pub struct Chosen {
    /// Among which.
    pub state: State,
    /// Its name.
    pub id: SnapshotId,
}

impl Chosen {
    /// What the log says of it.
    pub fn snapshot(&self) -> &SnapshotState {
        &self.state.snapshots[&self.id]
    }
}

/// The program that servers call, which comes with this one, unless another is named.
pub fn wal_program(named: Option<&Path>) -> Result<PathBuf, Failure> {
    match named {
        Some(program) => absolute(program),
        None => {
            let own = std::env::current_exe().map_err(|error| Failure::of_io("find this program", &error))?;
            Ok(own.with_file_name("hikae-wal"))
        }
    }
}

/// A path that still means the same when it stands in a configuration.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::of_io(format_args!("find {}", path.display()), &error))
}

/// Asks for a passphrase on the terminal, unseen.
pub fn ask_passphrase(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    ask(dialoguer::Password::new().with_prompt(prompt))
}

/// Asks for a new passphrase, twice.
pub fn ask_new_passphrase() -> Result<Zeroizing<String>, Failure> {
    let twice = dialoguer::Password::new()
        .with_prompt("New passphrase")
        .allow_empty_password(true)
        .with_confirmation("The same again", "The two differ");
    ask(twice)
}

fn ask(password: dialoguer::Password<'_>) -> Result<Zeroizing<String>, Failure> {
    let answer = signals::while_asking(|| password.interact()).map(Zeroizing::new);
    answer.map_err(|dialoguer::Error::IO(error)| match error.kind() {
        io::ErrorKind::Interrupted => Failure::new(ErrorCode::Interrupted, "interrupted", None),
        _ => Failure::of_io("ask for the passphrase", &error),
    })
}

/// Largest recovery sheet that is read.
const MAX_SHEET: u64 = 1 << 20;

/// Text of a recovery sheet. Its file may be readable by others (it comes from paper or a stick); that is for its
/// owner to know, and it must not stop a recovery.
fn read_recovery(sheet: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    if sheet.as_os_str() == "-" {
        if io::stdin().is_terminal() {
            return ask_passphrase("Secret of the recovery sheet");
        }
        let read = io::stdin().take(MAX_SHEET).read_to_string(&mut text);
        read.map_err(|error| Failure::of_io("read the recovery sheet", &error))?;
    } else {
        let read = std::fs::File::open(sheet).and_then(|file| file.take(MAX_SHEET).read_to_string(&mut text));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::new(
                ErrorCode::Usage,
                format!("{} is not there", sheet.display()),
                Some("name the file of the recovery sheet, or give `-` and type or paste its secret".into()),
            ),
            _ => Failure::of_io(format_args!("read {}", sheet.display()), &error),
        })?;
    }
    Ok(text)
}
