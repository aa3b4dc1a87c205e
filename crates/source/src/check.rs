//! Checks: what had to hold after a restore, what did, and whether the two are the same.
//!
//! A source makes them by comparing its manifest with what it finds; evidence and reports list them.

/// One thing that had to hold, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Check {
    /// What was looked at, as `rows of orders`.
    pub name: String,
    /// What the manifest says.
    pub expected: String,
    /// What was found.
    pub actual: String,
    /// Whether it holds.
    pub passed: bool,
}

impl Check {
    /// A check that passes if both are shown alike.
    pub fn equal(name: impl Into<String>, expected: impl ToString, actual: impl ToString) -> Self {
        let (expected, actual) = (expected.to_string(), actual.to_string());
        let passed = expected == actual;
        Self { name: name.into(), expected, actual, passed }
    }
}

/// As `rows of orders: expected 500, found 499`.
impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.passed {
            write!(f, "{}: {}", self.name, self.actual)
        } else {
            write!(f, "{}: expected {}, found {}", self.name, self.expected, self.actual)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_passes_only_if_both_are_the_same() {
        assert!(Check::equal("rows of orders", 500, 500).passed);
        let red = Check::equal("rows of orders", 500, 499);
        assert!(!red.passed);
        assert_eq!(red.to_string(), "rows of orders: expected 500, found 499");
    }
}
