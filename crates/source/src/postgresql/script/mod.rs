//! SQL scripts, split into statements as psql would, without a server.
//!
//! Two things need it: `globals.sql` is run statement by statement, because psql would also obey its `\` commands; and a
//! plain dump of foreign origin is looked through before any server sees it. Such a dump, made with `--create --clean`
//! and fed to `psql -d test`, has dropped and reloaded the production database that it came from.
//!
//! Quoting is that of `standard_conforming_strings = on`; a dump that switches it off is refused, because the same
//! bytes would then mean something else. A script has the encoding that it says, so it is bytes here. Source:
//! `psqlscan.l`.

mod token;

pub(super) use token::{Token, Tokens, begins};

use std::io::{self, BufRead};
use token::{begins_word, continues_word};

/// Longest statement that is looked at. All of one stands in memory, as it does in psql.
const MAX_STATEMENT_BYTES: usize = 256 << 20;

/// One piece of a script.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// An SQL statement without its `;` and its comments.
    Statement(Statement),
    /// A line of comment between two statements, without its dashes.
    Comment { line: u64, text: String },
    /// A line that psql would obey itself, without its backslash.
    Meta { line: u64, text: String },
    /// The script ends within a quote, a comment, a statement or rows.
    CutShort { line: u64 },
    /// A statement longer than any that is looked at.
    TooLong { line: u64 },
}

/// An SQL statement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Statement {
    /// Line in which it begins.
    pub(super) line: u64,
    /// Its text, in the script's encoding.
    pub(super) text: Vec<u8>,
}

impl Statement {
    /// Its words.
    pub(super) fn tokens(&self) -> Tokens<'_> {
        Tokens::of(&self.text)
    }

    /// True if rows follow it in the script.
    fn is_copy_from_stdin(&self) -> bool {
        let mut tokens = self.tokens();
        if !tokens.next().is_some_and(|token| token.is("copy")) {
            return false;
        }
        let (mut depth, mut after_from) = (0_i32, false);
        for (i, token) in tokens.enumerate() {
            match token {
                Token::Sign(b'(') if i == 0 => return false, // `COPY (SELECT ...) TO`
                Token::Sign(b'(') => depth += 1,
                Token::Sign(b')') => depth -= 1,
                token if after_from => return token.is("stdin"),
                token => after_from = depth == 0 && token.is("from"),
            }
        }
        false
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

/// A statement as far as it was read.
#[derive(Default)]
struct Draft {
    line: u64,
    text: Vec<u8>,
    parentheses: u32,
    /// Blocks that `BEGIN` opened in the body of a function, whose statements end with `;` too.
    blocks: u32,
    /// First letters of the first words that matter, by which the definition of a function is known.
    heads: [u8; 4],
    n_words: usize,
}

impl Draft {
    /// As psql does: `CREATE [OR REPLACE] {FUNCTION | PROCEDURE}`, then `BEGIN`, `CASE` and `END` outside of parentheses.
    fn note(&mut self, word: &[u8]) {
        let is = |keyword: &[u8]| word.eq_ignore_ascii_case(keyword);
        if let Some(head) = self.heads.get_mut(self.n_words)
            && [&b"create"[..], b"function", b"procedure", b"or", b"replace"].into_iter().any(is)
        {
            *head = word[0].to_ascii_lowercase();
        }
        self.n_words += 1;
        let makes_function = matches!(self.heads, [b'c', b'f' | b'p', ..] | [b'c', b'o', b'r', b'f' | b'p']);
        if !makes_function || self.parentheses > 0 {
            return;
        }
        if is(b"begin") || is(b"case") && self.blocks > 0 {
            self.blocks += 1;
        } else if is(b"end") {
            self.blocks = self.blocks.saturating_sub(1);
        }
    }
}

impl<R: BufRead> Script<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, line: 1, peeked: None, rows_follow: false, ended: false }
    }

    /// The line at hand.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.peek()?;
        self.peeked = None;
        if byte == Some(b'\n') {
            self.line += 1;
        }
        Ok(byte)
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.peeked.is_none() {
            self.peeked = self.reader.fill_buf()?.first().copied();
            if self.peeked.is_some() {
                self.reader.consume(1);
            }
        }
        Ok(self.peeked)
    }

    /// The rest of the line, as much of it as a message can show.
    fn rest_of_line(&mut self) -> io::Result<String> {
        const KEEP: usize = 4096;
        let mut rest = Vec::new();
        while let Some(byte) = self.peek()? {
            // A comment ends with either; what follows a lone `\r` is SQL again.
            if matches!(byte, b'\n' | b'\r') {
                break;
            }
            self.byte()?;
            if rest.len() < KEEP {
                rest.push(byte);
            }
        }
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }

    /// Gives the rows of the COPY that was just read to `sink`, piece by piece, and counts them. `None` if they do not end.
    pub(super) fn rows(&mut self, mut sink: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Option<u64>> {
        self.rows_follow = false;
        // What stands behind the `;` is of no row.
        while self.byte()?.is_some_and(|byte| byte != b'\n') {}
        let mut n_rows = 0;
        let mut beginning = Vec::new(); // of a line that may be the last
        let mut at_start = true;
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                self.ended = true;
                return Ok((beginning == b"\\.").then_some(n_rows));
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let piece = &buffer[..end.map_or(buffer.len(), |end| end + 1)];
            let n = piece.len();
            self.line += u64::from(end.is_some());
            if at_start && beginning.len() + n <= b"\\.\r\n".len() {
                beginning.extend(piece);
                self.reader.consume(n);
                if end.is_none() {
                    continue;
                }
                if beginning == b"\\.\n" || beginning == b"\\.\r\n" {
                    return Ok(Some(n_rows));
                }
                sink(&beginning)?;
                beginning.clear();
            } else {
                if !beginning.is_empty() {
                    sink(&beginning)?;
                    beginning.clear();
                }
                sink(piece)?;
                self.reader.consume(n);
            }
            at_start = end.is_some();
            n_rows += u64::from(at_start);
        }
    }

    /// The next piece; `None` at the end of a whole script. Rows that were not asked for are passed over.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece>> {
        if self.ended {
            return Ok(None);
        }
        if self.rows_follow && self.rows(|_| Ok(()))?.is_none() {
            return Ok(self.cut_short());
        }
        let mut draft = Draft::default();
        loop {
            let line = self.line;
            let Some(byte) = self.byte()? else {
                self.ended = true;
                return Ok((!draft.text.is_empty()).then_some(Piece::CutShort { line }));
            };
            if draft.text.is_empty() && byte.is_ascii_whitespace() {
                continue;
            }
            match byte {
                b'-' if self.peek()? == Some(b'-') => {
                    self.byte()?;
                    let text = self.rest_of_line()?.trim().to_owned();
                    if draft.text.is_empty() {
                        return Ok(Some(Piece::Comment { line, text }));
                    }
                    continue;
                }
                b'/' if self.peek()? == Some(b'*') => {
                    self.byte()?;
                    if !self.pass_block_comment()? {
                        return Ok(self.cut_short());
                    }
                    if !draft.text.is_empty() {
                        draft.text.push(b' ');
                    }
                    continue;
                }
                b'\\' => {
                    let text = self.rest_of_line()?;
                    return Ok(match self.peek()? {
                        Some(_) => Some(Piece::Meta { line, text }),
                        None => self.cut_short(),
                    });
                }
                b';' if draft.text.is_empty() => continue,
                b';' if draft.parentheses == 0 && draft.blocks == 0 => {
                    draft.text.truncate(draft.text.trim_ascii_end().len());
                    let statement = Statement { line: draft.line, text: draft.text };
                    self.rows_follow = statement.is_copy_from_stdin();
                    return Ok(Some(Piece::Statement(statement)));
                }
                _ => {}
            }
            if draft.text.is_empty() {
                draft.line = line;
            }
            draft.text.push(byte);
            let is_whole = match byte {
                byte if begins_word(byte) => self.word(&mut draft)?,
                b'\'' => self.quoted(b'\'', false, &mut draft.text)?,
                b'"' => self.quoted(b'"', false, &mut draft.text)?,
                b'$' => self.dollar_quoted(&mut draft.text)?,
                b'(' => {
                    draft.parentheses += 1;
                    true
                }
                b')' => {
                    draft.parentheses = draft.parentheses.saturating_sub(1);
                    true
                }
                _ => true,
            };
            if draft.text.len() >= MAX_STATEMENT_BYTES {
                self.ended = true;
                return Ok(Some(Piece::TooLong { line: draft.line }));
            }
            if !is_whole {
                return Ok(self.cut_short());
            }
        }
    }

    fn cut_short(&mut self) -> Option<Piece> {
        self.ended = true;
        Some(Piece::CutShort { line: self.line })
    }

    /// The rest of a word whose first letter was read, and the text that it may be the `E` of.
    fn word(&mut self, draft: &mut Draft) -> io::Result<bool> {
        let start = draft.text.len() - 1;
        while let Some(byte) = self.peek()?.filter(|&byte| continues_word(byte)) {
            self.byte()?;
            draft.text.push(byte);
        }
        let word = draft.text[start..].to_vec();
        if word.eq_ignore_ascii_case(b"e") && self.peek()? == Some(b'\'') {
            draft.text.extend(self.byte()?);
            return self.quoted(b'\'', true, &mut draft.text);
        }
        draft.note(&word);
        Ok(true)
    }

    /// The rest of what is in quotes. A doubled quote begins the next text at once. False if it does not end.
    fn quoted(&mut self, quote: u8, escapes: bool, text: &mut Vec<u8>) -> io::Result<bool> {
        while let Some(byte) = self.byte()? {
            text.push(byte);
            if byte == b'\\' && escapes {
                text.extend(self.byte()?);
            } else if byte == quote {
                if !escapes || self.peek()? != Some(quote) {
                    return Ok(true);
                }
                text.extend(self.byte()?);
            }
            if text.len() >= MAX_STATEMENT_BYTES {
                return Ok(true); // and so the statement is too long
            }
        }
        Ok(false)
    }

    /// After a `$`: the rest of `$tag$ ... $tag$`, or nothing if it begins no quote. False if it does not end.
    fn dollar_quoted(&mut self, text: &mut Vec<u8>) -> io::Result<bool> {
        let start = text.len() - 1;
        loop {
            let next = self.peek()?;
            match next {
                Some(b'$') => {}
                Some(byte) if begins_word(byte) => {}
                Some(byte) if byte.is_ascii_digit() && text.len() > start + 1 => {}
                _ => return Ok(true), // a parameter, as `$1`, or a lone sign
            }
            text.extend(self.byte()?);
            if next == Some(b'$') {
                break;
            }
        }
        let tag = text[start..].to_vec();
        let body = text.len();
        while let Some(byte) = self.byte()? {
            text.push(byte);
            if byte == b'$' && text.len() - body >= tag.len() && text.ends_with(&tag) {
                return Ok(true);
            }
            if text.len() >= MAX_STATEMENT_BYTES {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rest of a comment in `/* */`, which may hold others. False if it does not end.
    fn pass_block_comment(&mut self) -> io::Result<bool> {
        let mut depth = 1_u64;
        while let Some(byte) = self.byte()? {
            match (byte, self.peek()?) {
                (b'*', Some(b'/')) => {
                    self.byte()?;
                    depth -= 1;
                    if depth == 0 {
                        return Ok(true);
                    }
                }
                (b'/', Some(b'*')) => {
                    self.byte()?;
                    depth += 1;
                }
                _ => {}
            }
        }
        Ok(false)
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
                Piece::Statement(statement) => statements.push(String::from_utf8(statement.text).unwrap()),
                Piece::Comment { .. } => {}
                Piece::Meta { text, .. } => statements.push(format!("META {text}")),
                Piece::CutShort { .. } => statements.push("CUT".into()),
                Piece::TooLong { .. } => statements.push("LONG".into()),
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
            ("a e'it''s\\';' ; b;", &["a e'it''s\\';'", "b"]),
            ("a typE'\\'; b;", &["a typE'\\'", "b"]),
            ("a '\\'; b;", &["a '\\'", "b"]),
            ("a /* ; /* ; */ ; */ b;", &["a   b"]),
            ("-- ; '\nb;", &["b"]),
            ("-- ;\rb;", &["b"]),
            ("a -- ;\n b;", &["a \n b"]),
            ("a $$ ; $$; b $f$ $$;$ $f$;", &["a $$ ; $$", "b $f$ $$;$ $f$"]),
            ("a $a$$a$; b;", &["a $a$$a$", "b"]),
            ("a $1; b;", &["a $1", "b"]),
            ("x$a$; b;", &["x$a$", "b"]),
            ("create rule r as do also (a; b); c;", &["create rule r as do also (a; b)", "c"]),
            (
                "create or replace function f() begin atomic select case when a then b end; c; end; d;",
                &["create or replace function f() begin atomic select case when a then b end; c; end", "d"],
            ),
            ("begin; a; end;", &["begin", "a", "end"]),
            ("copy t (a) from stdin;\n1;\n\\connect x\n\\.\nb;", &["copy t (a) from stdin", "b"]),
            ("copy t from stdin;\r\n1;\r\n\\.\r\nb;", &["copy t from stdin", "b"]),
            ("copy t from stdin; -- x\n\\.x\n\\. \n\\.", &["copy t from stdin"]),
            ("copy t (\"from\") from stdin;\n\\.\nb;", &["copy t (\"from\") from stdin", "b"]),
            (
                "copy (select 1 from stdin) to stdout;\n\\connect x\n",
                &["copy (select 1 from stdin) to stdout", "META connect x"],
            ),
            ("copy t from stdin;\n1\n", &["copy t from stdin", "CUT"]),
            ("\\restrict x", &["CUT"]),
            ("a 'open", &["CUT"]),
            ("a $$open", &["CUT"]),
            ("a (open;", &["CUT"]),
            ("/* open", &["CUT"]),
            ("", &[]),
        ] {
            assert_eq!(statements(script), expected, "{script}");
        }
    }

    #[test]
    fn rows_are_given_out_as_they_are() {
        let long = "x".repeat(9000);
        for rows in ["", "1\ta\n\\.x\n\\\\.\n", &format!("{long}\n\\N\n\n{long}\n"), "a\r\nb\r\n"] {
            let text = format!("copy t from stdin;\n{rows}\\.\nselect 1;");
            // However the bytes come.
            for buffer in [1, 2, 3, 7, 8192] {
                let mut script = Script::new(io::BufReader::with_capacity(buffer, text.as_bytes()));
                script.next().unwrap();
                let mut given = Vec::new();
                let n = script.rows(|piece| {
                    given.extend(piece);
                    Ok(())
                });
                assert_eq!(n.unwrap(), Some(rows.matches('\n').count() as u64));
                assert_eq!(String::from_utf8(given).unwrap(), rows);
                let next =
                    Statement { line: 3 + rows.matches('\n').count() as u64, text: b"select 1".into() };
                assert_eq!(script.next().unwrap(), Some(Piece::Statement(next)));
            }
        }
    }
}
