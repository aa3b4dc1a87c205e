//! `~/.aws/config` and `~/.aws/credentials`, as far as they say who somebody is.
//!
//! Source: <https://docs.aws.amazon.com/cli/v1/userguide/cli-configure-files.html>.

use super::{NoKeys, S3Surroundings};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// More is no such file.
const MOST_BYTES: u64 = 1 << 20;

/// Every profile and SSO session of both files.
pub(super) struct Profiles {
    /// By name; `sso-session NAME` for those.
    sections: BTreeMap<String, Profile>,
    /// For people.
    files: String,
}

/// The settings of one section.
#[derive(Default)]
pub(super) struct Profile(BTreeMap<String, String>);

impl Profile {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl Profiles {
    /// Reads both files; one that is not there says nothing.
    pub fn read(around: &S3Surroundings) -> Result<Self, NoKeys> {
        let path = |variable: &str, usual: &str| match around.variable(variable) {
            Some(path) => Some(at_home(around, &path)),
            None => around.home.as_ref().map(|home| home.join(".aws").join(usual)),
        };
        let config = path("AWS_CONFIG_FILE", "config");
        let credentials = path("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let named: Vec<String> =
            [&config, &credentials].into_iter().flatten().map(|path| path.display().to_string()).collect();
        let mut profiles = Self { sections: BTreeMap::new(), files: named.join(" or ") };
        // What stands in the file of keys goes before.
        for (path, name_of) in
            [(config, of_config as fn(&str) -> Option<String>), (credentials, of_credentials)]
        {
            let Some(path) = path else { continue };
            let text = text_of(&path)
                .map_err(|error| NoKeys::new(format!("cannot read {}: {error}", path.display())))?;
            profiles.add(&text, name_of);
        }
        Ok(profiles)
    }

    fn add(&mut self, text: &str, name_of: fn(&str) -> Option<String>) {
        let mut section: Option<&mut Profile> = None;
        for line in text.lines() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
                continue;
            }
            if let Some(header) = trimmed.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                let name = name_of(header.trim());
                section = name.map(|name| self.sections.entry(name).or_default());
            } else if !line.starts_with([' ', '\t'])
                && let (Some(profile), Some((name, value))) = (&mut section, trimmed.split_once('='))
            {
                // Lines that are set in belong to the setting above, as that of `s3`.
                let value = value.split(" #").next().and_then(|value| value.split(" ;").next());
                profile
                    .0
                    .insert(name.trim().to_ascii_lowercase(), value.unwrap_or_default().trim().to_owned());
            }
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.sections.contains_key(name)
    }

    /// A profile that is named is there, or it is an error.
    pub fn get(&self, name: &str) -> Result<&Profile, NoKeys> {
        let none = || NoKeys::new(format!("there is no profile `{name}` in {}", self.files));
        self.sections.get(name).ok_or_else(none)
    }

    /// What a profile of SSO shares with others.
    pub fn sso_session(&self, name: &str) -> Option<&Profile> {
        self.sections.get(&format!("sso-session {name}"))
    }
}

fn of_config(header: &str) -> Option<String> {
    match header.split_once(char::is_whitespace) {
        None if header == "default" => Some(header.to_owned()),
        Some(("profile", name)) => Some(name.trim().trim_matches('"').to_owned()),
        Some(("sso-session", name)) => Some(format!("sso-session {}", name.trim())),
        _ => None,
    }
}

fn of_credentials(header: &str) -> Option<String> {
    Some(header.to_owned())
}

/// A path in which `~/` is the user's home.
pub(super) fn at_home(around: &S3Surroundings, path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), &around.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}

/// A file that may not be there.
fn text_of(path: &Path) -> io::Result<String> {
    match read_text(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text,
    }
}

/// A small file of text.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_are_read_as_amazons_programs_read_them() {
        let mut profiles = Profiles { sections: BTreeMap::new(), files: "x".to_owned() };
        let config = "# a comment\n[default]\nregion = eu-west-1\naws_access_key_id = OLD\n[profile \"of app\"]\n\
                      Role_ARN=arn:aws:iam::1:role/x ; why\ns3 =\n  max_concurrent_requests = 20\n\
                      [sso-session corp]\nsso_region=us-east-1\n[services x]\nsts = y\n[app]\nrole_arn = no\n";
        profiles.add(config, of_config);
        profiles.add("[default]\naws_access_key_id=NEW\naws_secret_access_key = a#b=c\n", of_credentials);
        assert_eq!(profiles.get("default").unwrap().get("aws_access_key_id"), Some("NEW"));
        assert_eq!(profiles.get("default").unwrap().get("aws_secret_access_key"), Some("a#b=c"));
        assert_eq!(profiles.get("of app").unwrap().get("role_arn"), Some("arn:aws:iam::1:role/x"));
        assert_eq!(profiles.get("of app").unwrap().get("max_concurrent_requests"), None);
        assert_eq!(profiles.sso_session("corp").unwrap().get("sso_region"), Some("us-east-1"));
        assert!(profiles.get("app").is_err() && profiles.get("services x").is_err());
    }
}
