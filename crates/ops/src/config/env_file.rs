//! Files of `NAME=value` lines, as shells and systemd read them: parsed, and never run.

use zeroize::Zeroizing;

/// Why a file of `NAME=value` lines does not tell a value. Never holds any of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEnvFile {
    /// A line is no assignment.
    #[error("line {line} is not NAME=value")]
    NoAssignment {
        /// Its number.
        line: usize,
    },
    /// A value is one that a shell would not take as it stands.
    #[error("line {line}: {why}")]
    BadValue {
        /// Its number.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The variable is not in it.
    #[error("no line sets {name}")]
    NotSet {
        /// Its name.
        name: String,
    },
}

/// The value of `name`, as a shell would have it after `source`, without running any of it. What a shell would expand
/// (`$`, a backquote) is refused, because its value would be another.
///
/// # Errors
/// [`BadEnvFile`] if the name is not in it, or a line is not understood.
pub fn value_of(name: &str, text: &str) -> Result<Zeroizing<String>, BadEnvFile> {
    let mut found = None;
    for (i, line) in text.lines().enumerate() {
        let (n, line) = (i + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let assignment = line.strip_prefix("export ").map_or(line, str::trim_start);
        let (key, value) = assignment.split_once('=').ok_or(BadEnvFile::NoAssignment { line: n })?;
        if key == name {
            // The last one wins, as in a shell.
            found = Some(unquote(value).map_err(|why| BadEnvFile::BadValue { line: n, why })?);
        }
    }
    found.ok_or_else(|| BadEnvFile::NotSet { name: name.to_owned() })
}

fn unquote(value: &str) -> Result<Zeroizing<String>, &'static str> {
    let mut plain = Zeroizing::new(String::new());
    let mut chars = value.chars();
    let mut quote = None;
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => plain.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (_, '$' | '`') => return Err("a shell would expand it; put the value in single quotes"),
            (None, '\\') => plain.extend(chars.next()),
            (Some(_), '\\') => match chars.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => plain.push(c),
                Some(c) => plain.extend(['\\', c]),
                None => return Err("it ends in a backslash"),
            },
            (None, c) if c.is_whitespace() => {
                let rest = chars.as_str().trim_start();
                if rest.is_empty() || rest.starts_with('#') {
                    break;
                }
                return Err("words follow the value; put the value in single quotes");
            }
            (None, ';' | '&' | '|' | '<' | '>' | '(' | ')') => {
                return Err("a shell would not take it as text; put the value in single quotes");
            }
            (_, c) => plain.push(c),
        }
    }
    if quote.is_some() { Err("the quotes do not end") } else { Ok(plain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps MK-63.
    #[test]
    fn an_env_file_is_parsed_and_never_run() {
        let value = |text: &str| value_of("DB_PASSWORD", text).map(|value| value.to_string());
        for (line, expected) in [
            ("DB_PASSWORD=plain", "plain"),
            ("export DB_PASSWORD=\"two words\" # comment", "two words"),
            ("DB_PASSWORD='$(touch pwned)`'", "$(touch pwned)`"),
            ("DB_PASSWORD=\"a\\\"b\\$c\"", "a\"b$c"),
            ("OTHER=$(touch pwned)\nDB_PASSWORD=x", "x"),
            ("DB_PASSWORD=first\nDB_PASSWORD=second", "second"),
            ("DB_PASSWORD=a'b'c", "abc"),
        ] {
            assert_eq!(value(line).as_deref(), Ok(expected), "{line}");
        }
        for line in [
            "DB_PASSWORD=$(x)",
            "DB_PASSWORD=\"`x`\"",
            "DB_PASSWORD='open",
            "touch pwned",
            "DB_PASSWORD=a; b",
            "X=1",
        ] {
            assert!(value(line).is_err(), "{line}");
        }
    }
}
