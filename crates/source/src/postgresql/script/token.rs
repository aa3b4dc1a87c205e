//! The words of one statement, for who asks what it is about.
//!
//! Quoting is that of [`Script`](super::Script), which has taken out the comments already.

/// One word, name, text or sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::postgresql) enum Token<'a> {
    /// A keyword or a name without quotes, as it is written.
    Word(&'a [u8]),
    /// What stands between double quotes; a doubled one still is.
    Name(&'a [u8]),
    /// What stands between single quotes or dollars, as it is written.
    Text(&'a [u8]),
    /// Any other character: a sign, a digit.
    Sign(u8),
}

impl Token<'_> {
    /// True if it is this keyword, which is given in lower case.
    pub(in crate::postgresql) fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// The name that it is, as the server reads it.
    pub(in crate::postgresql) fn name(&self) -> Option<String> {
        match self {
            Token::Word(word) => Some(String::from_utf8_lossy(word).to_ascii_lowercase()),
            Token::Name(name) => Some(String::from_utf8_lossy(name).replace("\"\"", "\"")),
            Token::Text(_) | Token::Sign(_) => None,
        }
    }
}

/// True if `tokens` begin with these keywords.
pub(in crate::postgresql) fn begins(tokens: &[Token<'_>], keywords: &[&str]) -> bool {
    tokens.len() >= keywords.len() && tokens.iter().zip(keywords).all(|(token, keyword)| token.is(keyword))
}

/// The tokens of a statement, one after the other.
pub(in crate::postgresql) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(in crate::postgresql) fn of(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Where the next token is looked for.
    pub(in crate::postgresql) fn position(&self) -> usize {
        self.at
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// What is there as long as `fits` says so.
    fn run(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = &self.text[self.at..];
        let n = rest.iter().position(|&byte| !fits(byte)).unwrap_or(rest.len());
        self.at += n;
        &rest[..n]
    }

    /// What is there up to the closing `quote`, which is passed over. A doubled one closes nothing.
    fn quoted(&mut self, quote: u8, escapes: bool) -> &'a [u8] {
        let start = self.at;
        while let Some(byte) = self.peek() {
            self.at += 1;
            if byte == b'\\' && escapes {
                self.at += 1;
            } else if byte == quote {
                if self.peek() != Some(quote) {
                    return &self.text[start..self.at - 1];
                }
                self.at += 1;
            }
        }
        self.at = self.text.len();
        &self.text[start..]
    }

    /// After a `$`: the text of `$tag$ ... $tag$`, if it begins one.
    fn dollar_quoted(&mut self) -> Option<&'a [u8]> {
        let rest = &self.text[self.at..];
        let tag = rest.iter().position(|&byte| byte == b'$')?;
        let is_tag =
            rest[..tag].iter().enumerate().all(|(i, &b)| begins_word(b) || i > 0 && b.is_ascii_digit());
        if !is_tag {
            return None;
        }
        let mark = &self.text[self.at - 1..=self.at + tag];
        let body = &rest[tag + 1..];
        let n = body.windows(mark.len()).position(|window| window == mark).unwrap_or(body.len());
        self.at = (self.at + tag + 1 + n + mark.len()).min(self.text.len());
        Some(&body[..n])
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.run(|byte| byte.is_ascii_whitespace());
        let byte = self.peek()?;
        if begins_word(byte) {
            let word = self.run(continues_word);
            if word.eq_ignore_ascii_case(b"e") && self.peek() == Some(b'\'') {
                self.at += 1;
                return Some(Token::Text(self.quoted(b'\'', true)));
            }
            return Some(Token::Word(word));
        }
        self.at += 1;
        Some(match byte {
            b'\'' => Token::Text(self.quoted(b'\'', false)),
            b'"' => Token::Name(self.quoted(b'"', false)),
            b'$' => self.dollar_quoted().map_or(Token::Sign(byte), Token::Text),
            byte => Token::Sign(byte),
        })
    }
}

/// `ident_start` of `psqlscan.l`.
pub(super) fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

/// `ident_cont` of `psqlscan.l`.
pub(super) fn continues_word(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_names_and_texts_are_told_apart() {
        let tokens: Vec<Token<'_>> =
            Tokens::of(b"GRANT x.\"a\"\"b\" 'it''s' E'\\'' $f$ ' $f$ $1 a$b").collect();
        use Token::{Name, Sign, Text, Word};
        assert_eq!(
            tokens,
            [
                Word(b"GRANT"),
                Word(b"x"),
                Sign(b'.'),
                Name(b"a\"\"b"),
                Text(b"it''s"),
                Text(b"\\'"),
                Text(b" ' "),
                Sign(b'$'),
                Sign(b'1'),
                Word(b"a$b"),
            ]
        );
        assert_eq!(tokens[3].name().as_deref(), Some("a\"b"));
        assert!(begins(&tokens, &["grant", "x"]) && !begins(&tokens[..1], &["grant", "x"]));
    }

    #[test]
    fn a_text_that_does_not_end_ends_with_the_statement() {
        for text in ["a 'b", "a \"b", "a $$b", "a E'\\"] {
            assert_eq!(Tokens::of(text.as_bytes()).count(), 2, "{text}");
        }
    }
}
