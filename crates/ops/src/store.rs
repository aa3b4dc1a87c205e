//! Where a repository is kept, ready to be opened: a directory, a bucket, or a directory of another machine, with what lets us in.

mod sftp;

use crate::config::{LockConfig, LockMode, S3Config, StoreConfig, printed_by};
use crate::open::OpenError;
use crate::surroundings::Surroundings;
use hikae_model::Cx;
use hikae_remote::{
    Bucket, RemoteStore, Retry, S3Identity, S3Key, S3Lock, S3LockMode, S3Login, S3Role, S3Settings,
    S3Surroundings, SftpLogin, SftpSettings,
};
pub use hikae_store::Durability;
use hikae_store::probe::probe;
pub use hikae_store::probe::{Ability, Found};
use hikae_store::{DirectoryStore, Reserve, Store, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a store is, with its secrets.
#[derive(Clone, Debug)]
pub enum StorePlace {
    /// A directory.
    Directory(PathBuf),
    /// A bucket, or a part of one.
    S3(Box<(S3Settings, S3Login)>),
    /// A directory of another machine.
    Sftp(Box<(SftpSettings, SftpLogin)>),
}

/// Objects whose locks are looked at.
const LOOKED_AT: usize = 20;

/// What was seen of locks.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct LocksFound {
    /// How many objects were looked at.
    pub n_looked_at: usize,
    /// Those that are not locked. One that a prune has doomed may be; any other should not.
    pub unlocked: Vec<String>,
    /// When the first of the other locks ends.
    pub until: Option<jiff::Timestamp>,
}

/// A store that is open. What only a directory has is asked of that.
#[derive(Clone)]
pub enum OpenStore {
    /// A directory.
    Directory(Arc<DirectoryStore>),
    /// One over the network.
    Remote(Arc<RemoteStore>),
}

/// What was found of a store by trying it.
#[derive(Debug)]
pub struct Probed {
    /// What it can be asked to do.
    pub abilities: Vec<(Ability, Found)>,
    /// Whether what it stored survives a power cut.
    pub durability: Durability,
}

impl Probed {
    /// Whether it can keep a repository.
    pub fn is_fit(&self) -> bool {
        !self.abilities.iter().any(|(ability, found)| ability.is_lacking(found))
    }
}

impl StorePlace {
    /// The place that a configuration names.
    ///
    /// # Errors
    /// [`OpenError::Secret`].
    pub fn of(config: &StoreConfig, around: &Surroundings, cx: &Cx) -> Result<Self, OpenError> {
        match config {
            StoreConfig::Directory(path) => Ok(Self::Directory(path.clone())),
            StoreConfig::Sftp(config) => sftp::place_of(config, around, cx),
            StoreConfig::S3(config) => {
                let settings = settings_of(config, around);
                let login = login_of(config, around, cx)?;
                Ok(Self::S3(Box::new((settings, login))))
            }
        }
    }

    /// The place that a command line names: a path, `s3://bucket/prefix`, `s3:https://server/bucket/prefix`, or
    /// `sftp://user@server:port/path`, as [`address`](Self::address) writes it. What lets us in is in the surroundings then.
    ///
    /// # Errors
    /// [`OpenError::Address`] for what is no address.
    pub fn parse(text: &Path, around: &Surroundings, cx: &Cx) -> Result<Self, OpenError> {
        let bad = || OpenError::Address { text: text.display().to_string() };
        if let Some(rest) = text.to_str().and_then(|text| text.strip_prefix("sftp://")) {
            return sftp::parse(rest, around)?.ok_or_else(bad);
        }
        let Some(address) = text.to_str().and_then(|text| text.strip_prefix("s3:")) else {
            return Ok(Self::Directory(std::path::absolute(text).map_err(|_| bad())?));
        };
        let (endpoint, rest) = match address.split_once("://") {
            Some((scheme @ ("https" | "http"), rest)) => {
                let (host, rest) = rest.split_once('/').ok_or_else(bad)?;
                (Some(format!("{scheme}://{host}")), rest)
            }
            _ => match address.strip_prefix("//") {
                Some(rest) => (None, rest),
                None => return Err(bad()),
            },
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if bucket.is_empty() || !hikae_store::is_prefix(prefix) {
            return Err(bad());
        }
        let config = S3Config {
            bucket: bucket.to_owned(),
            prefix: Some(prefix.to_owned()),
            endpoint,
            ..S3Config::default()
        };
        Self::of(&StoreConfig::S3(Box::new(config)), around, cx)
    }

    /// The same with its objects locked. A directory locks nothing, which the configuration says.
    pub fn locked(mut self, lock: LockConfig, around: &Surroundings) -> Self {
        if let Self::S3(place) = &mut self {
            let mode = match lock.mode {
                LockMode::Compliance => S3LockMode::Compliance,
                LockMode::Governance => S3LockMode::Governance,
            };
            let name: String =
                place.0.address().chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
            let remembered = Some(around.cache.join("locks").join(name));
            place.0.lock = Some(S3Lock { mode, length: lock.length, remembered });
        }
        self
    }

    /// How its objects are locked, if they are.
    pub fn lock(&self) -> Option<&S3Lock> {
        match self {
            Self::S3(place) => place.0.lock.as_ref(),
            _ => None,
        }
    }

    /// What the bucket says of locks, of itself and of some objects drawn by chance; nothing where nothing is to be locked.
    ///
    /// # Errors
    /// [`OpenError::Repo`] if the bucket does not lock objects, or cannot be asked.
    pub fn check_locks(&self, cx: &Cx) -> Result<Option<LocksFound>, OpenError> {
        let Self::S3(place) = self else { return Ok(None) };
        if place.0.lock.is_none() {
            return Ok(None);
        }
        Bucket::new(&place.0, &place.1, cx)?.control(Retry::default(), cx)?.check_lock(false)?;
        let store = self.open(Reserve::default(), cx)?.shared();
        let mut keys = Vec::new();
        store.list("", &mut |object| keys.push(object.key))?;
        keys.retain(|key| ["leases/", "probe/"].iter().all(|exempt| !key.as_str().starts_with(exempt)));
        let mut found = LocksFound::default();
        while found.n_looked_at < LOOKED_AT && !keys.is_empty() {
            let key = keys.swap_remove((u64::from_le_bytes(cx.random()) % keys.len() as u64) as usize);
            found.n_looked_at += 1;
            match store.locked_until(&key)? {
                Some(until) => found.until = Some(found.until.map_or(until, |least| least.min(until))),
                None => found.unlocked.push(key.to_string()),
            }
        }
        Ok(Some(found))
    }

    /// Where it is, for people; without any secret.
    pub fn address(&self) -> String {
        match self {
            Self::Directory(path) => path.display().to_string(),
            Self::S3(place) => place.0.address(),
            Self::Sftp(place) => place.0.address(),
        }
    }

    /// The directory, if it is one on this machine.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::S3(..) | Self::Sftp(..) => None,
        }
    }

    /// Opens the store, and nothing in it.
    ///
    /// # Errors
    /// [`OpenError::Repo`] if there is none.
    pub fn open(&self, reserve: Reserve, cx: &Cx) -> Result<OpenStore, OpenError> {
        match self {
            Self::Directory(path) => {
                let store = DirectoryStore::open(path, reserve, cx.random_source())?;
                Ok(OpenStore::Directory(Arc::new(store)))
            }
            Self::S3(place) => {
                let (settings, login) = &**place;
                let store = Bucket::new(settings, login, cx)?.store(Retry::default(), cx)?;
                Ok(OpenStore::Remote(Arc::new(store)))
            }
            Self::Sftp(place) => {
                let (settings, login) = &**place;
                let store = settings.store(login, reserve, Retry::default(), cx)?;
                Ok(OpenStore::Remote(Arc::new(store)))
            }
        }
    }

    /// Makes the store, or finds it empty. A bucket must be there; that one over the network keeps two writers of one name apart is seen
    /// first, for everything rests on that.
    ///
    /// # Errors
    /// [`OpenError::Repo`].
    pub fn create(&self, reserve: Reserve, cx: &Cx) -> Result<OpenStore, OpenError> {
        match self {
            Self::Directory(path) => {
                let store = DirectoryStore::create(path, reserve, cx.random_source())?;
                Ok(OpenStore::Directory(Arc::new(store)))
            }
            Self::S3(..) => self.fit(self.open(reserve, cx)?, cx),
            Self::Sftp(place) => {
                let (settings, login) = &**place;
                let store = settings.create(login, reserve, Retry::default(), cx)?;
                self.fit(OpenStore::Remote(Arc::new(store)), cx)
            }
        }
    }

    /// A store of which it was seen that it can keep a repository.
    fn fit(&self, store: OpenStore, cx: &Cx) -> Result<OpenStore, OpenError> {
        let mut found = probe(&*store.shared(), cx.random())?.into_iter();
        match found.find(|(ability, found)| ability.is_lacking(found)) {
            None | Some((_, Found::Kept)) => Ok(store),
            Some((_, Found::Failed(error))) => Err(error.into()),
            Some((ability, Found::Broken(why))) => {
                Err(OpenError::Weak { address: self.address(), ability: ability.name(), why })
            }
        }
    }

    /// Makes the bucket, or the directory of another machine; one that is ours already is a success. A directory of this one is
    /// made with the repository in it.
    ///
    /// # Errors
    /// [`OpenError::Repo`].
    pub fn make(&self, cx: &Cx) -> Result<(), OpenError> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::S3(place) => {
                let (settings, login) = &**place;
                Ok(Bucket::new(settings, login, cx)?.control(Retry::default(), cx)?.create()?)
            }
            Self::Sftp(place) => {
                let (settings, login) = &**place;
                Ok(settings.create(login, Reserve::default(), Retry::default(), cx).map(drop)?)
            }
        }
    }

    /// Finds out what the store really does, by doing it.
    ///
    /// # Errors
    /// [`OpenError::Repo`] if nothing at all can be written.
    pub fn probe(&self, cx: &Cx) -> Result<Probed, OpenError> {
        let store = self.open(Reserve::default(), cx)?;
        Ok(Probed { abilities: probe(&*store.shared(), cx.random())?, durability: store.durability()? })
    }
}

impl OpenStore {
    /// As every store is used.
    pub fn shared(&self) -> Arc<dyn Store> {
        match self {
            Self::Directory(store) => store.clone(),
            Self::Remote(store) => store.clone(),
        }
    }

    /// Whether what it calls durable survives a power cut, as far as can be seen from here.
    ///
    /// # Errors
    /// Any failure to ask.
    pub fn durability(&self) -> Result<Durability, StoreError> {
        match self {
            Self::Directory(store) => store.durability(),
            Self::Remote(store) => store.durability(),
        }
    }

    /// Removes what killed runs left half written, if last written to before `before`.
    ///
    /// # Errors
    /// Any failure; some may have been removed.
    pub fn reclaim_temporary(&self, before: jiff::Timestamp) -> Result<usize, StoreError> {
        match self {
            Self::Directory(store) => store.reclaim_temporary(before),
            Self::Remote(store) => store.reclaim_temporary(before),
        }
    }

    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&DirectoryStore> {
        match self {
            Self::Directory(store) => Some(store),
            Self::Remote(_) => None,
        }
    }
}

fn settings_of(config: &S3Config, around: &Surroundings) -> S3Settings {
    let S3Config { bucket, prefix, region, endpoint, path_style, ca, .. } = config;
    let variable = |name| variable(around, name);
    let region = region.clone().or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
    S3Settings {
        bucket: bucket.clone(),
        prefix: prefix.clone().unwrap_or_default(),
        region: region.unwrap_or_else(|| "us-east-1".to_owned()),
        endpoint: endpoint.clone(),
        path_style: path_style.unwrap_or(endpoint.is_some()),
        ca: ca.clone(),
        lock: None,
    }
}

fn login_of(config: &S3Config, around: &Surroundings, cx: &Cx) -> Result<S3Login, OpenError> {
    let identity = match (&config.access_key, &config.secret_key, &config.profile) {
        (Some(access_key), Some(secret_key), _) => S3Identity::Key(S3Key {
            access_key: access_key.clone(),
            secret_key: secret_key.resolve(around, cx)?,
        }),
        (_, _, Some(profile)) => S3Identity::Profile(profile.clone()),
        _ => S3Identity::Surroundings,
    };
    let role = config.role.as_ref().map(|arn| S3Role {
        arn: arn.clone(),
        external_id: config.external_id.clone(),
        session: session_name(&around.host),
        seconds: None,
    });
    let (here, cx) = (around.clone(), cx.clone());
    let around = S3Surroundings {
        variables: around.variables.clone(),
        home: around.home.clone(),
        run: Arc::new(move |words| printed_by(words, &here, &cx).map_err(|error| crate::with_causes(&error))),
    };
    Ok(S3Login { identity, role, sts_endpoint: config.sts_endpoint.clone(), around })
}

/// How our sessions are called in the logs of who lets us in: letters, digits and `=,.@-`, at most 64.
fn session_name(host: &str) -> String {
    let is_allowed = |c: &char| c.is_ascii_alphanumeric() || "=,.@-".contains(*c);
    format!("hikae-{}", host.chars().filter(is_allowed).take(48).collect::<String>())
}

fn variable(around: &Surroundings, name: &str) -> Option<String> {
    (around.variables)(name)?.into_string().ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surroundings::tests::surroundings;

    #[test]
    fn an_address_is_read_as_it_is_written_and_nothing_else_is_one() {
        let (around, cx) = (surroundings(Path::new("/r")), hikae_testkit::system_cx());
        for address in [
            "/srv/main",
            "s3://bucket",
            "s3://bucket/of/app",
            "s3:http://[::1]:9000/bucket/of",
            "s3:https://host/bucket",
            "sftp://me@host/srv/hikae",
            "sftp://me@host:2222/srv/hikae",
            "sftp://me@[::1]:2222/srv/hikae",
            "sftp://me@host/~/hikae",
        ] {
            assert_eq!(StorePlace::parse(Path::new(address), &around, &cx).unwrap().address(), address);
        }
        for bad in [
            "s3:",
            "s3://",
            "s3:bucket",
            "s3:://bucket",
            "s3:https://host",
            "s3:ftp://host/bucket",
            "s3://b/Of",
            "sftp://",
            "sftp://host",
            "sftp://host/",
            "sftp://host/~/",
            "sftp://@host/srv",
            "sftp://me@/srv",
            "sftp://me@host:x/srv",
            "sftp://me:secret@host/srv",
            "sftp://me@host/srv/../etc",
        ] {
            let parsed = StorePlace::parse(Path::new(bad), &around, &cx);
            assert!(matches!(parsed, Err(OpenError::Address { .. })), "{bad}: {parsed:?}");
        }
    }
}
