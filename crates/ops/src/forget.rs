//! Forget by the rules of the configuration, by a rule of the moment, or by name. The deciding is the repository's.

use crate::OpsError;
use crate::config::Config;
use crate::pitr::leading::leading_bases;
use hikae_model::{Cx, ErrorCode, SnapshotId, sabotage};
use hikae_repo::Repo;
use hikae_repo::forget as repo_forget;
use hikae_repo::forget::{ForgetReport, ToForget, plan_forget};
use hikae_repo::retention::Retention;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use hikae_repo::forget::{ForgetOptions, ForgetPlan, PlannedSnapshot};
pub use hikae_repo::retention::Retention as Rule;

/// What should be forgotten, and why, for the log.
#[derive(Clone, Debug)]
pub struct Request {
    what: ToForget,
    reason: String,
}

impl Request {
    /// These snapshots.
    pub fn of_snapshots(ids: impl IntoIterator<Item = SnapshotId>, reason: Option<&str>) -> Self {
        let what = ToForget::Snapshots(ids.into_iter().collect::<BTreeSet<_>>());
        Self { what, reason: reason.unwrap_or("asked for by name").to_owned() }
    }

    /// What a rule does not keep, of one source or of each.
    pub fn of_rule(source: Option<&str>, rule: Retention, zone: &TimeZone) -> Self {
        let reason = format!("the rule {}", shown(&rule));
        let what = ToForget::Rule {
            source_name: source.map(str::to_owned),
            retention: Box::new(rule),
            time_zone: zone.clone(),
            leading: BTreeSet::new(),
        };
        Self { what, reason }
    }

    /// What the retention of each job does not keep of its sources, by source. Jobs that back up into another
    /// repository than this one of the configuration do not count.
    ///
    /// # Errors
    /// [`OpsError::Refused`] if no job has a retention.
    pub fn of_config<'c>(
        config: &'c Config,
        repository: Option<&str>,
        zone: &TimeZone,
    ) -> Result<BTreeMap<&'c str, Self>, OpsError> {
        let mut rules: BTreeMap<&str, &Retention> = BTreeMap::new();
        for (job_name, job) in config.jobs_into(repository) {
            let Some(retention) = &job.retention else { continue };
            // No two jobs have one for the same source: the configuration would not have been read.
            let sources = config.sources_of(Some(job_name)).unwrap_or_default();
            rules.extend(sources.into_iter().map(|source| (source, retention)));
        }
        if rules.is_empty() {
            let advice = "add `retention = { daily = 30 }` to a job, give --keep-daily 30, or name snapshots";
            let what = "nothing says what to keep, so nothing is forgotten";
            return Err(OpsError::refused(ErrorCode::Usage, what, Some(advice.into())));
        }
        let request =
            |(source, rule): (&'c str, &Retention)| (source, Self::of_rule(Some(source), rule.clone(), zone));
        Ok(rules.into_iter().map(request).collect())
    }

    /// Says what would go, and why the others stay.
    ///
    /// # Errors
    /// What may not be forgotten.
    pub fn plan(&self, repo: &Arc<Repo>, options: ForgetOptions, cx: &Cx) -> Result<ForgetPlan, OpsError> {
        repo.set_copies_aside();
        let what = self.what_stands(repo, cx)?;
        let (state, _) = repo.readable()?;
        Ok(plan_forget(&state, &what, options, cx.now()).map_err(hikae_repo::RepoError::from)?)
    }

    /// Forgets.
    ///
    /// # Errors
    /// What may not be forgotten, or any failure to write the log; then nothing was.
    pub fn carry_out(
        &self,
        repo: &Arc<Repo>,
        options: ForgetOptions,
        cx: &Cx,
    ) -> Result<ForgetReport, OpsError> {
        Ok(repo_forget::forget(repo, &self.what_stands(repo, cx)?, &self.reason, options, cx)?)
    }

    /// With the base backups that a rule must leave, by what the repository holds now. A base backup that comes meanwhile is
    /// the newest, and stays anyway.
    fn what_stands(&self, repo: &Arc<Repo>, cx: &Cx) -> Result<ToForget, OpsError> {
        let mut what = self.what.clone();
        if let ToForget::Rule { source_name, leading, .. } = &mut what
            && !sabotage::on("chains-uncounted")
        {
            *leading = leading_bases(repo, source_name.as_deref(), cx)?;
        }
        Ok(what)
    }
}

/// As `last 1, daily 30`.
pub(crate) fn shown(rule: &Retention) -> String {
    let Retention { last, hourly, daily, weekly, monthly, yearly, within } = rule;
    let counts =
        [("hourly", hourly), ("daily", daily), ("weekly", weekly), ("monthly", monthly), ("yearly", yearly)];
    let mut parts = vec![format!("last {last}")];
    parts.extend(counts.into_iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")));
    parts.extend(within.map(|within| format!("within {within:#}")));
    parts.join(", ")
}
