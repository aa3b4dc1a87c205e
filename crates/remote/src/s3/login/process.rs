//! A key that a program prints: `credential_process` of a profile.
//!
//! Source: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html>.

use super::{Finder, Found, NoKeys, moment};
use serde::Deserialize;

/// A key as programs, containers and instances write it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct KeyText {
    #[serde(default)]
    version: Option<u32>,
    access_key_id: String,
    secret_access_key: String,
    #[serde(alias = "Token")]
    session_token: Option<String>,
    expiration: Option<String>,
}

impl KeyText {
    pub fn parse(json: &str, origin: &str) -> Result<Self, NoKeys> {
        // The parser's own words may quote what it met.
        serde_json::from_str(json).map_err(|_| NoKeys::new(format!("{origin} gave no key")))
    }

    pub fn found(&self, origin: &str) -> Result<Found, NoKeys> {
        let expires = self.expiration.as_deref().map(|text| moment(text, origin)).transpose()?;
        let found =
            Found::new(&self.access_key_id, &self.secret_access_key, self.session_token.as_deref(), origin);
        Ok(Found { expires, ..found })
    }
}

impl Finder {
    pub(super) async fn of_process(&self, profile: &str, command: &str) -> Result<Found, NoKeys> {
        let origin = format!("the credential_process of the profile `{profile}`");
        let words = words(command).ok_or_else(|| NoKeys::new(format!("{origin} has an open quote")))?;
        let run = self.login.around.run.clone();
        let ran = tokio::task::spawn_blocking(move || run(&words)).await;
        let printed = match ran {
            Ok(Ok(printed)) => printed,
            Ok(Err(why)) => return Err(NoKeys::new(format!("{origin}: {why}"))),
            Err(_) => return Err(NoKeys::new(format!("{origin} could not be waited for"))),
        };
        let key = KeyText::parse(&printed, &origin)?;
        match key.version {
            Some(1) => key.found(&origin),
            _ => Err(NoKeys::new(format!("{origin} speaks another version than 1"))),
        }
    }
}

/// Words with quotes, as a shell would part them; nothing else of a shell. None if a quote stays open.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().push(letters.next()?),
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_parted_as_a_shell_would_and_nothing_is_run() {
        let words = |text| super::words(text).map(|words| words.join("|"));
        assert_eq!(words("/bin/a  b 'c d' \"e \\\" f\" g\\ h ''").unwrap(), "/bin/a|b|c d|e \" f|g h|");
        assert_eq!(words("a $(b) `c`").unwrap(), "a|$(b)|`c`");
        assert!(words("a 'b").is_none());
    }
}
