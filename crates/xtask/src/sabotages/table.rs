//! The list of bugs that tests must catch: `crates/xtask/sabotages.toml`.

/// Where the list is, from the root.
pub(crate) const TABLE: &str = "crates/xtask/sabotages.toml";

/// A bug that the code can be told to have, and the test that must see it.
#[derive(Clone, Debug)]
pub(crate) struct Sabotage {
    /// What the code asks for by `sabotage::on`.
    pub(crate) name: String,
    /// What is wrong while it is in.
    pub(crate) bug: String,
    /// Ids of the promises whose detector it tries.
    pub(crate) promises: Vec<String>,
    /// The test that must fail.
    pub(crate) test: TestName,
    /// A part of what that test says when it fails for the right reason.
    pub(crate) says: String,
    /// Whether its test is one of the slow ones, which a quick run leaves out.
    pub(crate) slow: bool,
}

/// A test by its crate, as `repo`, and its path, as `prune::a_second_prune_finds_nothing_to_do`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TestName {
    /// The directory below `crates`.
    pub(crate) krate: String,
    /// As the test harness prints it.
    pub(crate) path: String,
}

impl std::fmt::Display for TestName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.krate, self.path)
    }
}

/// Reads the list.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn parse(text: &str) -> Result<Vec<Sabotage>, String> {
    let bad = |what: &str| format!("{TABLE}: {what}");
    let table: toml::Table = text.parse().map_err(|error| bad(&format!("{error}")))?;
    let list = table.get("sabotage").and_then(toml::Value::as_array).ok_or_else(|| bad("lists nothing"))?;
    let entry = |value: &toml::Value| {
        let need = |field: &str| {
            let text = value.get(field).and_then(toml::Value::as_str).filter(|text| !text.is_empty());
            text.map(str::to_owned).ok_or_else(|| bad(&format!("no `{field}` in {value}")))
        };
        let test = need("test")?;
        let (krate, path) = test.split_once(' ').ok_or_else(|| bad(&format!("`{test}` names no crate")))?;
        Ok(Sabotage {
            name: need("name")?,
            bug: need("bug")?,
            promises: need("promise")?.split(", ").map(str::to_owned).collect(),
            test: TestName { krate: krate.to_owned(), path: path.to_owned() },
            says: need("says")?,
            slow: value.get("slow").and_then(toml::Value::as_bool).unwrap_or_default(),
        })
    };
    list.iter().map(entry).collect()
}
