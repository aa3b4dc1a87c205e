//! Secrets that stand where all can read them: in the arguments of programs, in connection strings.
//!
//! Found by what they look like, so some are missed; what is found is almost surely one, and is never repeated.

use super::SecretRef;

/// What stands in the place of a secret that is shown.
const MASK: &str = "***";

/// How names of secrets end, as in `--db-password=`, `PGPASSWORD=`, `aws_secret_access_key=`.
const NAMES: [&str; 9] =
    ["password", "passwd", "passphrase", "pwd", "secret", "token", "apikey", "secretkey", "accesskey"];

/// A program and its arguments with every secret in them taken out.
pub(crate) fn masked(words: &[String]) -> Vec<String> {
    let mut expected = false;
    words.iter().map(|word| masked_word(word, &mut expected)).collect()
}

/// Whether there is a secret in a program's arguments.
pub(crate) fn has_secret(words: &[String]) -> bool {
    masked(words) != words
}

/// A secret reference as it may be shown: a program that tells the secret may have one in its arguments.
pub(crate) fn shown_reference(reference: &SecretRef) -> String {
    match reference {
        SecretRef::Command(words) => SecretRef::Command(masked(words)).to_string(),
        other => other.to_string(),
    }
}

/// One argument, which may be a script with many words. `expected` is true after a word such as `--password`.
fn masked_word(word: &str, expected: &mut bool) -> String {
    let is_end = |c: char| c.is_whitespace() || "'\";&|".contains(c);
    let mut masked = String::with_capacity(word.len());
    let mut rest = word;
    while !rest.is_empty() {
        let end = rest.find(is_end).unwrap_or(rest.len());
        let (token, after) = rest.split_at(end);
        if !token.is_empty() {
            masked.push_str(&masked_token(token, *expected));
            // `--token VALUE`, and `NAME='VALUE'`, whose quote has ended the word.
            let name = token.strip_suffix('=');
            *expected = name.or(token.strip_prefix("--")).is_some_and(is_secret_name);
        }
        let between = after.find(|c| !is_end(c)).unwrap_or(after.len());
        masked.push_str(&after[..between]);
        rest = &after[between..];
    }
    masked
}

fn masked_token(token: &str, expected: bool) -> String {
    if let Some((name, value)) = token.split_once('=')
        && is_secret_name(name)
        && is_literal(value)
    {
        return format!("{name}={MASK}");
    }
    if expected && is_literal(token) || is_cloud_key(token) {
        return MASK.to_owned();
    }
    without_user_password(token)
}

fn is_secret_name(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase());
    let plain: String = letters.collect();
    NAMES.iter().any(|end| plain.ends_with(end))
}

/// A value itself: neither a variable, nor a path, nor another option, nor one of our references.
fn is_literal(value: &str) -> bool {
    let is_reference =
        ["file:", "env:", "credential:", "command:"].iter().any(|kind| value.starts_with(kind));
    !value.is_empty() && !is_reference && !value.starts_with(['$', '/', '-', '`', '<', '{'])
}

/// Key ids of AWS: AKIA or ASIA and 16 capitals and digits.
fn is_cloud_key(token: &str) -> bool {
    token.len() == 20
        && (token.starts_with("AKIA") || token.starts_with("ASIA"))
        && token.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

/// `scheme://user:***@host`.
fn without_user_password(token: &str) -> String {
    let Some(start) = token.find("://").map(|n| n + 3) else { return token.to_owned() };
    let end = token[start..].find(['/', '?']).map_or(token.len(), |n| start + n);
    let Some(at) = token[start..end].rfind('@').map(|n| start + n) else { return token.to_owned() };
    match token[start..at].find(':').map(|n| start + n + 1) {
        Some(password) if is_literal(&token[password..at]) => {
            format!("{}{MASK}{}", &token[..password], &token[at..])
        }
        _ => token.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_secret_in_the_arguments_of_a_program_is_found_and_not_shown() {
        for (given, shown) in [
            (&["mysqldump", "--password=geheim", "db"][..], &["mysqldump", "--password=***", "db"][..]),
            (&["tool", "--token", "geheim"], &["tool", "--token", "***"]),
            (&["env", "PGPASSWORD=geheim", "psql"], &["env", "PGPASSWORD=***", "psql"]),
            (&["sh", "-c", "export API_KEY='geheim'; run"], &["sh", "-c", "export API_KEY='***'; run"]),
            (&["sh", "-c", "curl https://u:geheim@h/x | y"], &["sh", "-c", "curl https://u:***@h/x | y"]),
            (&["x", "AKIAIOSFODNN7EXAMPLE"], &["x", "***"]),
            (&["x", "AWS_SECRET_ACCESS_KEY=geheim"], &["x", "AWS_SECRET_ACCESS_KEY=***"]),
        ] {
            assert_eq!(masked(&words(given)), shown);
            assert!(has_secret(&words(given)));
        }
    }

    #[test]
    fn what_only_looks_like_a_secret_is_left_alone() {
        for given in [
            &["mysqldump", "--password-file=/etc/x", "db"][..],
            &["tool", "--password", "--verbose"],
            &["tool", "--password=$DB_PASSWORD", "--token=/run/token"],
            &["systemctl", "stop", "token-server"],
            &["pass", "show", "password"],
            &["curl", "https://user@host/", "http://[::1]:80/a@b:c"],
            &["x", "--secret=env:APP"],
        ] {
            assert_eq!(masked(&words(given)), words(given));
        }
    }
}
