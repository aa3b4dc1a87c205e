//! What a dump brings and what it needs, as its statements say.

use super::judge::{LeftOut, Object, Verdict};
use crate::postgresql::connection::shown_name;
use crate::postgresql::script::{Statement, Token, begins};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How a dump is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DumpForm {
    /// A script, as `pg_dump` writes it by default.
    #[default]
    Plain,
    /// A script, compressed by gzip.
    PlainGzip,
    /// A script, compressed by zstd.
    PlainZstd,
    /// `pg_dump --format=custom`.
    Custom,
    /// `pg_dump --format=directory`.
    Directory,
    /// `pg_dump --format=tar`.
    Tar,
}

impl DumpForm {
    /// True if `pg_restore` must make a script of it.
    pub fn is_archive(self) -> bool {
        matches!(self, Self::Custom | Self::Directory | Self::Tar)
    }

    /// For people.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Plain => "a plain script",
            Self::PlainGzip => "a plain script in gzip",
            Self::PlainZstd => "a plain script in zstd",
            Self::Custom => "a custom archive",
            Self::Directory => "a directory archive",
            Self::Tar => "a tar archive",
        }
    }
}

/// What a dump of foreign origin holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DumpContents {
    /// How it is stored.
    pub form: DumpForm,
    /// Version of the server that it is of, as it says.
    pub server_version: Option<String>,
    /// Version of the `pg_dump` that made it, as it says.
    pub pg_dump_version: Option<String>,
    /// The tables whose rows it brings.
    pub tables: Vec<DumpedTable>,
    /// How many statements are loaded besides.
    pub statements: u64,
    /// How many large objects it brings.
    pub large_objects: u64,
    /// Extensions that it makes.
    pub extensions: Vec<String>,
    /// Roles that it names: owners, and whom privileges and policies are for.
    pub roles: Vec<String>,
    /// Those of them to whom something is given.
    pub owners: Vec<String>,
    /// Tablespaces that it names.
    pub tablespaces: Vec<String>,
    /// What is left out, and why.
    pub left_out: Vec<String>,
    /// The encoding of its text.
    pub encoding: Option<String>,
}

/// A table whose rows a dump brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DumpedTable {
    /// Its name as SQL.
    pub name: String,
    /// How many rows.
    pub rows: u64,
}

/// Gathers what the statements of a dump say.
#[derive(Default)]
pub(super) struct Gleaner {
    contents: DumpContents,
    /// Where in `contents.tables` each name is, as it stands in the script.
    by_name: HashMap<Vec<u8>, usize>,
    extensions: BTreeSet<String>,
    roles: BTreeSet<String>,
    owners: BTreeSet<String>,
    tablespaces: BTreeSet<String>,
    left_out: BTreeMap<LeftOut, u64>,
    n_filled_objects: u64,
}

impl Gleaner {
    /// A line of comment between statements.
    pub(super) fn comment(&mut self, text: &str) {
        let contents = &mut self.contents;
        for (mark, version) in [
            ("Dumped from database version ", &mut contents.server_version),
            ("Dumped by pg_dump version ", &mut contents.pg_dump_version),
        ] {
            if let Some(said) = text.strip_prefix(mark)
                && version.is_none()
            {
                *version = Some(shown_name(said));
            }
        }
    }

    /// A statement that is loaded or left out.
    pub(super) fn statement(&mut self, statement: &Statement, verdict: &Verdict) {
        match verdict {
            Verdict::Copy { table } => self.rows(table, 0),
            Verdict::Insert { table, n_rows } => self.rows(table, *n_rows),
            Verdict::LeaveOut(why) => *self.left_out.entry(*why).or_default() += 1,
            Verdict::Tablespace { name } if !name.is_empty() => drop(self.tablespaces.insert(name.clone())),
            Verdict::LargeObject(Object::Make) => self.contents.large_objects += 1,
            Verdict::LargeObject(Object::Open) => self.n_filled_objects += 1,
            Verdict::Setting { name } => {
                if let (true, Some(Token::Text(encoding))) =
                    (name == "client_encoding", statement.tokens().nth(3))
                {
                    self.contents.encoding = Some(shown_name(&String::from_utf8_lossy(encoding)));
                }
            }
            Verdict::Load => self.loaded(&statement.tokens().collect::<Vec<_>>()),
            Verdict::Tablespace { .. } | Verdict::LargeObject(Object::Close) | Verdict::Drop => {}
        }
    }

    fn loaded(&mut self, tokens: &[Token<'_>]) {
        self.contents.statements += 1;
        let is_set = begins(tokens, &["set", "session", "authorization"]);
        if begins(tokens, &["create", "extension"]) {
            let name =
                tokens[2..].iter().find(|token| !["if", "not", "exists"].iter().any(|word| token.is(word)));
            self.extensions.extend(name.and_then(Token::name));
        } else if let [.., owner, to, name] = tokens
            && owner.is("owner")
            && to.is("to")
        {
            self.owner(name);
        } else if is_set {
            tokens.get(3).filter(|name| !name.is("default")).into_iter().for_each(|name| self.owner(name));
        } else if begins(tokens, &["grant"]) {
            self.roles(tokens, "to");
        } else if begins(tokens, &["revoke"]) {
            self.roles(tokens, "from");
        } else if begins(tokens, &["alter", "default", "privileges"]) {
            // What one makes from now on is given away in one's name.
            let of = tokens
                .windows(3)
                .find(|three| three[0].is("for") && (three[1].is("role") || three[1].is("user")));
            of.into_iter().for_each(|three| self.owner(&three[2]));
            let revokes = tokens.iter().any(|token| token.is("revoke"));
            self.roles(tokens, if revokes { "from" } else { "to" });
        } else if begins(tokens, &["create", "policy"]) {
            self.roles(tokens, "to");
        } else if begins(tokens, &["create", "user", "mapping", "for"]) {
            self.roles(&tokens[3..], "for");
        } else if begins(tokens, &["create", "schema"]) {
            let by = tokens.windows(2).find(|pair| pair[0].is("authorization"));
            by.into_iter().for_each(|pair| self.owner(&pair[1]));
        }
    }

    fn owner(&mut self, name: &Token<'_>) {
        let name = match name {
            Token::Text(text) => Some(String::from_utf8_lossy(text).replace("''", "'")),
            name => name.name(),
        };
        self.owners.extend(name.clone());
        self.roles.extend(name);
    }

    /// The list of roles behind the last `word` outside of parentheses.
    fn roles(&mut self, tokens: &[Token<'_>], word: &str) {
        let mut depth = 0_i32;
        let mut list = None;
        for (i, token) in tokens.iter().enumerate() {
            match token {
                Token::Sign(b'(') => depth += 1,
                Token::Sign(b')') => depth -= 1,
                token if depth == 0 && token.is(word) => list = Some(i + 1),
                _ => {}
            }
        }
        for pair in tokens[list.unwrap_or(tokens.len())..].chunks(2) {
            let nobody = ["public", "current_user", "session_user", "current_role"];
            if !nobody.iter().any(|word| pair[0].is(word)) {
                self.roles.extend(pair[0].name());
            }
            if pair.get(1) != Some(&Token::Sign(b',')) {
                break;
            }
        }
    }

    /// Counts rows of a table.
    pub(super) fn rows(&mut self, name: &[u8], n_rows: u64) {
        let tables = &mut self.contents.tables;
        let i = *self.by_name.entry(name.to_vec()).or_insert_with(|| {
            tables.push(DumpedTable { name: shown_name(&String::from_utf8_lossy(name)), rows: 0 });
            tables.len() - 1
        });
        tables[i].rows += n_rows;
    }

    /// How many large objects are made, and into how many something is written.
    pub(super) fn large_objects(&self) -> (u64, u64) {
        (self.contents.large_objects, self.n_filled_objects)
    }

    /// All that was gathered.
    pub(super) fn finish(self, form: DumpForm) -> DumpContents {
        let left_out = self.left_out.into_iter().map(|(why, n)| {
            let statements = if n == 1 { "statement is" } else { "statements are" };
            format!("{n} {statements} left out: {}", why.why())
        });
        DumpContents {
            form,
            extensions: self.extensions.into_iter().collect(),
            roles: self.roles.into_iter().collect(),
            owners: self.owners.into_iter().collect(),
            tablespaces: self.tablespaces.into_iter().collect(),
            left_out: left_out.collect(),
            ..self.contents
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::judge;
    use super::*;

    #[test]
    fn roles_extensions_and_tables_are_named() {
        let mut gleaner = Gleaner::default();
        for text in [
            "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" WITH SCHEMA public",
            "CREATE EXTENSION citext",
            "ALTER TABLE public.t OWNER TO \"The Owner\"",
            "GRANT SELECT(\"to\") ON TABLE public.t TO reader, PUBLIC, \"b,c\" WITH GRANT OPTION",
            "REVOKE ALL ON FUNCTION public.f(a integer) FROM revoked CASCADE",
            "ALTER DEFAULT PRIVILEGES FOR ROLE maker IN SCHEMA public GRANT SELECT ON TABLES TO later",
            "CREATE POLICY p ON public.t FOR SELECT TO judged USING ((a = 'to me'::text))",
            "CREATE USER MAPPING FOR mapped SERVER far OPTIONS (user 'to')",
            "SET SESSION AUTHORIZATION 'o''neill'",
            "SET client_encoding = 'EUC_JP'",
            "SET default_tablespace = fast",
            "INSERT INTO public.t VALUES (1), (2)",
            "INSERT INTO public.t VALUES (1)",
        ] {
            let statement = Statement { line: 1, text: text.as_bytes().to_vec() };
            gleaner.statement(&statement, &judge(&statement, false).unwrap());
        }
        let contents = gleaner.finish(DumpForm::Plain);
        assert_eq!(contents.extensions, ["citext", "uuid-ossp"]);
        assert_eq!(contents.owners, ["The Owner", "maker", "o'neill"]);
        let others = ["b,c", "judged", "later", "mapped", "reader", "revoked"];
        assert!(others.iter().all(|role| contents.roles.iter().any(|other| other == role)), "{contents:?}");
        assert_eq!(contents.roles.len(), others.len() + 3);
        assert_eq!(contents.encoding.as_deref(), Some("EUC_JP"));
        assert_eq!(contents.tablespaces, ["fast"]);
        assert_eq!(contents.tables, [DumpedTable { name: "public.t".into(), rows: 3 }]);
    }
}
