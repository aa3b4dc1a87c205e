//! SQL scripts, split into statements as psql would, without a server.
//!
//! Two things need it: `globals.sql` is run statement by statement, because psql would also obey its `\` commands; and a
//! plain dump of foreign origin is looked through before any server sees it. Such a dump, made with `--create --clean`
//! and fed to `psql -d test`, has dropped and reloaded the production database that it came from.
//!
//! Quoting is that of `standard_conforming_strings = on`. A script that switches it off is refused, because the same
//! bytes would then mean something else. Source: `psqlscan.l`.

mod refuse;

pub use refuse::{Refusal, refuses_dump};

use std::io::{self, BufRead};

/// Longest statement that is looked at whole.
const MAX_STATEMENT_BYTES: usize = 16 << 20;

/// One piece of a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// An SQL statement without its `;` and its comments.
    Statement(Statement),
    /// A line that psql would obey itself, without its backslash.
    Meta { line: u64, text: String },
    /// The script ends within a quote, a comment, a statement or rows.
    CutShort { line: u64 },
}

/// An SQL statement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    /// Line in which it begins.
    pub(super) line: u64,
    /// Its text.
    pub(super) text: String,
    /// Its text with everything in quotes taken out, in lower case, each space single.
    pub(super) bare: String,
}

impl Statement {
    /// True if it begins with these words.
    fn begins(&self, words: &[&str]) -> bool {
        let mut own = self.bare.split_whitespace();
        words.iter().all(|word| own.next() == Some(word))
    }

    /// True if rows follow it in the script.
    fn is_copy_from_stdin(&self) -> bool {
        self.begins(&["copy"])
            && !self.bare["copy".len()..].trim_start().starts_with('(')
            && self.bare.contains(" from stdin")
    }
}

/// Splits a script.
pub(super) struct Script<R> {
    reader: R,
    line: u64,
    /// A byte that was read too far.
    peeked: Option<u8>,
    rows_follow: bool,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single { escapes: bool },
    Double,
    Block { depth: u32 },
    Line,
}

impl<R: BufRead> Script<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: 1, peeked: None, rows_follow: false, ended: false }
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = match self.peeked.take() {
            Some(byte) => Some(byte),
            None => {
                let buffer = self.reader.fill_buf()?;
                let byte = buffer.first().copied();
                if byte.is_some() {
                    self.reader.consume(1);
                }
                byte
            }
        };
        if byte == Some(b'\n') {
            self.line += 1;
        }
        Ok(byte)
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.peeked.is_none() {
            let buffer = self.reader.fill_buf()?;
            self.peeked = buffer.first().copied();
            if self.peeked.is_some() {
                self.reader.consume(1);
            }
        }
        Ok(self.peeked)
    }

    /// The rest of the line.
    fn rest_of_line(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        while let Some(byte) = self.byte()? {
            if byte == b'\n' {
                break;
            }
            if rest.len() < MAX_STATEMENT_BYTES {
                rest.push(byte);
            }
        }
        Ok(rest)
    }

    /// Passes over the rows of a COPY. False if they do not end.
    fn skip_rows(&mut self) -> io::Result<bool> {
        self.rest_of_line()?;
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(false);
            }
            self.line += 1;
            if line.trim_ascii_end() == b"\\." {
                return Ok(true);
            }
        }
    }

    /// The next piece; `None` at the end of a whole script.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece>> {
        if self.ended {
            return Ok(None);
        }
        if std::mem::take(&mut self.rows_follow) && !self.skip_rows()? {
            self.ended = true;
            return Ok(Some(Piece::CutShort { line: self.line }));
        }
        let (mut text, mut bare) = (Vec::new(), String::new());
        let mut first_line = self.line;
        let mut quote = Quote::None;
        loop {
            let Some(byte) = self.byte()? else {
                self.ended = true;
                let whole = matches!(quote, Quote::None | Quote::Line) && bare.trim().is_empty();
                return Ok((!whole).then_some(Piece::CutShort { line: self.line }));
            };
            let keep = text.len() < MAX_STATEMENT_BYTES;
            match quote {
                Quote::Line => {
                    if byte == b'\n' {
                        quote = Quote::None;
                        text.push(b'\n');
                    }
                    continue;
                }
                Quote::Block { depth } => {
                    if byte == b'*' && self.peek()? == Some(b'/') {
                        self.byte()?;
                        quote = if depth == 1 { Quote::None } else { Quote::Block { depth: depth - 1 } };
                    } else if byte == b'/' && self.peek()? == Some(b'*') {
                        self.byte()?;
                        quote = Quote::Block { depth: depth + 1 };
                    }
                    continue;
                }
                Quote::Single { escapes } => {
                    if keep {
                        text.push(byte);
                    }
                    if byte == b'\\' && escapes {
                        text.extend(self.byte()?);
                    } else if byte == b'\'' {
                        quote = Quote::None; // a doubled quote begins the next one at once
                    }
                    continue;
                }
                Quote::Double => {
                    if keep {
                        text.push(byte);
                    }
                    if byte == b'"' {
                        quote = Quote::None;
                    }
                    continue;
                }
                Quote::None => {}
            }
            if bare.trim().is_empty() && !byte.is_ascii_whitespace() {
                first_line = self.line;
            }
            match byte {
                b'-' if self.peek()? == Some(b'-') => {
                    quote = Quote::Line;
                    push_space(&mut bare);
                    continue;
                }
                b'/' if self.peek()? == Some(b'*') => {
                    self.byte()?;
                    quote = Quote::Block { depth: 1 };
                    text.push(b' ');
                    push_space(&mut bare);
                    continue;
                }
                b'\'' => {
                    // Only `E'...'` knows backslashes; the E must be a word of its own.
                    let before = bare.as_bytes();
                    let n = before.len();
                    let escapes = n > 0
                        && before[n - 1] == b'e'
                        && (n == 1 || !(before[n - 2].is_ascii_alphanumeric() || before[n - 2] == b'_'));
                    quote = Quote::Single { escapes };
                    bare.push('\'');
                }
                b'"' => {
                    quote = Quote::Double;
                    bare.push('"');
                }
                b'$' if !bare.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()) => {
                    text.push(byte);
                    if !self.dollar_quote(&mut text)? {
                        self.ended = true;
                        return Ok(Some(Piece::CutShort { line: self.line }));
                    }
                    bare.push('$');
                    continue;
                }
                b'\\' => {
                    let line = self.line;
                    let command = self.rest_of_line()?;
                    return Ok(Some(Piece::Meta {
                        line,
                        text: String::from_utf8_lossy(&command).into_owned(),
                    }));
                }
                b';' => {
                    if bare.trim().is_empty() {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&text).trim().to_owned();
                    let statement = Statement { line: first_line, text, bare: bare.trim().to_owned() };
                    self.rows_follow = statement.is_copy_from_stdin();
                    return Ok(Some(Piece::Statement(statement)));
                }
                byte if byte.is_ascii_whitespace() => push_space(&mut bare),
                byte if bare.len() < MAX_STATEMENT_BYTES => {
                    // Letters beyond ASCII are of no keyword.
                    bare.push(if byte.is_ascii() {
                        char::from(byte.to_ascii_lowercase())
                    } else {
                        '\u{fffd}'
                    });
                }
                _ => {}
            }
            if keep {
                text.push(byte);
            }
        }
    }

    /// After a `$`: the rest of `$tag$ ... $tag$`, or nothing if it begins no quote. False if it does not end.
    fn dollar_quote(&mut self, text: &mut Vec<u8>) -> io::Result<bool> {
        let mut tag = vec![b'$'];
        loop {
            match self.peek()? {
                Some(b'$') => {
                    text.extend(self.byte()?);
                    tag.push(b'$');
                    break;
                }
                Some(byte) if byte == b'_' || !byte.is_ascii() || byte.is_ascii_alphabetic() => {}
                Some(byte) if byte.is_ascii_digit() && tag.len() > 1 => {}
                _ => return Ok(true), // a parameter, as `$1`, or a lone sign
            }
            let byte = self.byte()?;
            text.extend(byte);
            tag.extend(byte);
        }
        let mut last: Vec<u8> = Vec::with_capacity(tag.len());
        while let Some(byte) = self.byte()? {
            if text.len() < MAX_STATEMENT_BYTES {
                text.push(byte);
            }
            if last.len() == tag.len() {
                last.remove(0);
            }
            last.push(byte);
            if last == tag {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn push_space(bare: &mut String) {
    if !bare.is_empty() && !bare.ends_with(' ') {
        bare.push(' ');
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    fn statements(script: &str) -> Vec<String> {
        let mut script = Script::new(script.as_bytes());
        let mut statements = Vec::new();
        while let Some(piece) = script.next().unwrap() {
            match piece {
                Piece::Statement(statement) => statements.push(statement.text),
                Piece::Meta { text, .. } => statements.push(format!("META {text}")),
                Piece::CutShort { .. } => statements.push("CUT".into()),
            }
        }
        statements
    }

    #[test]
    fn a_script_is_split_where_psql_splits_it() {
        for (script, expected) in [
            ("a; b;", &["a", "b"][..]),
            ("a ';' ; b", &["a ';'", "CUT"]),
            ("a 'it''s;' \"x;\"\"y\" ;", &["a 'it''s;' \"x;\"\"y\""]),
            ("a E'\\';' ; b;", &["a E'\\';'", "b"]),
            ("a '\\'; b;", &["a '\\'", "b"]),
            ("a /* ; /* ; */ ; */ b;", &["a   b"]),
            ("-- ; '\nb;", &["b"]),
            ("a $$ ; $$; b $f$ $$;$ $f$;", &["a $$ ; $$", "b $f$ $$;$ $f$"]),
            ("a $1; b;", &["a $1", "b"]),
            ("x$a$; b;", &["x$a$", "b"]),
            ("copy t (a) from stdin;\n1;\n\\connect x\n\\.\nb;", &["copy t (a) from stdin", "b"]),
            (
                "copy (select 1 from stdin) to stdout;\n\\connect x\n",
                &["copy (select 1 from stdin) to stdout", "META connect x"],
            ),
            ("copy t from stdin;\n1\n", &["copy t from stdin", "CUT"]),
            ("a 'open", &["CUT"]),
            ("a $$open", &["CUT"]),
            ("", &[]),
        ] {
            assert_eq!(statements(script), expected, "{script}");
        }
    }
}
