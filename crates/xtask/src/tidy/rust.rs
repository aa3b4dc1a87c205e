//! Rust as text in layers: what is code, what is a comment, what stands in a literal.
//!
//! Each layer has the lines of the file, with everything of the other layers blank, so that a search meets
//! neither a word in a string nor code in a comment. It is a lexer and no parser.

/// The layers of one file.
pub(crate) struct Layers {
    /// Code, without comments and without what literals hold.
    pub(crate) code: String,
    /// Code with its literals.
    pub(crate) uncommented: String,
    /// Comments alone.
    pub(crate) comments: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

impl Layers {
    /// The layers of `text`.
    pub(crate) fn of(text: &str) -> Self {
        let text: Vec<char> = text.chars().collect();
        let kinds = kinds(&text);
        let layer = |wanted: &[Kind]| -> String {
            let keep = |(&c, kind): (&char, &Kind)| if c == '\n' || wanted.contains(kind) { c } else { ' ' };
            text.iter().zip(&kinds).map(keep).collect()
        };
        Self {
            code: layer(&[Kind::Code]),
            uncommented: layer(&[Kind::Code, Kind::Literal]),
            comments: layer(&[Kind::Comment]),
        }
    }

    /// The same without the items that `#[cfg(test)]` stands before.
    pub(crate) fn without_tests(mut self) -> Self {
        let mut code: Vec<char> = self.code.chars().collect();
        let mut uncommented: Vec<char> = self.uncommented.chars().collect();
        let marker: Vec<char> = "#[cfg(test)]".chars().collect();
        let mut from = 0;
        while let Some(at) = code[from..].windows(marker.len()).position(|window| window == marker) {
            let begin = from + at;
            from = end_of_item(&code, begin + marker.len());
            for layer in [&mut code, &mut uncommented] {
                layer[begin..from].iter_mut().filter(|c| **c != '\n').for_each(|c| *c = ' ');
            }
        }
        self.code = code.into_iter().collect();
        self.uncommented = uncommented.into_iter().collect();
        self
    }
}

/// The lines of a layer that hold `needle` as whole words, counted from 1.
pub(crate) fn lines_with<'a>(layer: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let holds = move |line: &str| line.match_indices(needle).any(|(at, _)| is_whole(line, at, needle));
    layer.lines().enumerate().filter(move |(_, line)| holds(line)).map(|(i, _)| i + 1)
}

/// Whether `needle` at `at` is not a piece of a longer word.
fn is_whole(line: &str, at: usize, needle: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let cuts =
        |left: Option<char>, right: Option<char>| left.is_some_and(is_word) && right.is_some_and(is_word);
    let before = line[..at].chars().next_back();
    let after = line[at + needle.len()..].chars().next();
    !cuts(before, needle.chars().next()) && !cuts(needle.chars().next_back(), after)
}

/// Where the item that begins at `from` ends: after its `;`, or after the brace that closes its first one.
fn end_of_item(code: &[char], from: usize) -> usize {
    let mut depth = 0_usize;
    for (i, c) in code.iter().enumerate().skip(from) {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && *c == '}' {
                    return i + 1 + usize::from(code.get(i + 1) == Some(&';'));
                }
            }
            ';' if depth == 0 => return i + 1,
            _ => {}
        }
    }
    code.len()
}

fn kinds(text: &[char]) -> Vec<Kind> {
    let mut kinds = Vec::with_capacity(text.len());
    while kinds.len() < text.len() {
        let at = kinds.len();
        let (kind, n) = token(text, at);
        kinds.resize((at + n).min(text.len()), kind);
    }
    kinds
}

/// The kind and the length of what begins at `at`.
fn token(text: &[char], at: usize) -> (Kind, usize) {
    let rest = &text[at..];
    let word_goes_on = at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_');
    match rest {
        ['/', '/', ..] => (Kind::Comment, rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())),
        ['/', '*', ..] => (Kind::Comment, block_comment(rest)),
        ['"', ..] => (Kind::Literal, string(rest)),
        ['\'', '\\', ..] => (Kind::Literal, 3 + until(&rest[3..], '\'')),
        ['\'', _, '\'', ..] => (Kind::Literal, 3),
        ['r', '"' | '#', ..] if !word_goes_on => raw_string(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !word_goes_on => raw_string(rest, 2),
        _ => (Kind::Code, 1),
    }
}

/// Number of characters up to and with the first `end`.
fn until(text: &[char], end: char) -> usize {
    text.iter().position(|&c| c == end).map_or(text.len(), |i| i + 1)
}

fn string(text: &[char]) -> usize {
    let mut i = 1;
    while i < text.len() && text[i] != '"' {
        i += if text[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// `r"…"`, `r#"…"#` and so on after a prefix of `n` characters; `r#name` is code.
fn raw_string(text: &[char], n: usize) -> (Kind, usize) {
    let n_hashes = text[n..].iter().take_while(|&&c| c == '#').count();
    let open = n + n_hashes;
    if text.get(open) != Some(&'"') {
        return (Kind::Code, open);
    }
    let closes = |i: usize| {
        text[i] == '"' && text[i + 1..].iter().take(n_hashes).filter(|&&c| c == '#').count() == n_hashes
    };
    let close = (open + 1..text.len()).find(|&i| closes(i)).unwrap_or(text.len());
    (Kind::Literal, close + 1 + n_hashes)
}

/// Block comments nest.
fn block_comment(text: &[char]) -> usize {
    let (mut i, mut depth) = (0, 0);
    while i < text.len() {
        match text[i..] {
            ['/', '*', ..] => (i, depth) = (i + 2, depth + 1),
            ['*', '/', ..] => (i, depth) = (i + 2, depth - 1),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_in_its_layer() {
        let text = r##"let a = "x // \" y"; // say 'z' "q"
let b = r#"raw " // w"#; /* one /* two */ "three" */ let c: &'a u8 = '"'; let r#type = b'\'';"##;
        let layers = Layers::of(text);
        assert_eq!(
            layers.code.split_whitespace().collect::<Vec<_>>().join(" "),
            "let a = ; let b = ; let c: &'a u8 = ; let r#type = b ;"
        );
        assert_eq!(
            layers.comments.split_whitespace().collect::<Vec<_>>().join(" "),
            r#"// say 'z' "q" /* one /* two */ "three" */"#
        );
        assert!(layers.uncommented.contains(r##"r#"raw " // w"#"##));
        assert_eq!(layers.code.lines().count(), 2);
    }

    #[test]
    fn tests_are_cut_out_and_line_numbers_stay() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { \"}\" }\n}\n#[cfg(test)]\nuse x::{y, z};\nfn c() {}\n";
        let layers = Layers::of(text).without_tests();
        assert_eq!(
            layers.code.split_whitespace().collect::<Vec<_>>(),
            ["fn", "a()", "{}", "fn", "c()", "{}"]
        );
        assert_eq!(lines_with(&layers.code, "fn c").collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn words_are_found_whole() {
        for (line, needle, expected) in [
            ("eprintln!()", "println!", 0),
            ("std::println!()", "println!", 1),
            ("a.expect(", ".expect(", 1),
            ("unsafely", "unsafe", 0),
        ] {
            assert_eq!(lines_with(line, needle).count(), expected, "{needle} in {line}");
        }
    }
}
