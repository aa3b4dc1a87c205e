//! A named place in a server's log, to which a recovery can be told to go.

use crate::SourceError;
use crate::postgresql::{Connection, Session, failed, quoted};
use hikae_model::{Cx, ErrorCode, Lsn};

/// A restore point that a server has made.
#[derive(Clone, Debug)]
pub struct PointMade {
    /// The first place behind it.
    pub lsn: Lsn,
    /// When it was made, by the server's clock.
    pub moment: jiff::Timestamp,
    /// Why the segment that it stands in was not ended at once; nothing if it was.
    pub not_switched: Option<String>,
}

/// A session that makes a restore point on the cluster of the number `system`, once its name was found free.
pub struct PointMaker {
    session: Session,
    user: String,
}

impl PointMaker {
    /// Enters the server, and sees that it is this cluster's primary.
    ///
    /// # Errors
    /// [`SourceError`] if it cannot be entered, or is another or a standby.
    pub fn enter(connection: &Connection, system: &str, cx: &Cx) -> Result<Self, SourceError> {
        let mut session = Session::enter(connection, cx)?;
        let rows = session.query(
            "look at",
            "SELECT system_identifier::text, pg_is_in_recovery()::text FROM pg_control_system()",
            &[],
        )?;
        let mut found = rows.into_iter().next().unwrap_or_default().into_iter().flatten();
        let (here, is_standby) = (found.next().unwrap_or_default(), found.next().unwrap_or_default());
        if here != system {
            let what =
                format!("{} is cluster {here}, and the base backups are of {system}", connection.shown());
            return Err(failed(ErrorCode::Forbidden, what, Some("see that it is the right server".into())));
        }
        if is_standby != "false" {
            let what = format!("{} is a standby, and its log is written elsewhere", connection.shown());
            return Err(failed(ErrorCode::Usage, what, Some("give --admin with the primary".into())));
        }
        Ok(Self { session, user: connection.user.clone() })
    }

    /// Makes the point, and ends the segment that it stands in, so that it is archived now and not when it is full.
    ///
    /// # Errors
    /// [`SourceError`] if the role may not, or the server keeps no log that could be recovered.
    pub fn make(mut self, name: &str) -> Result<PointMade, SourceError> {
        const VERB: &str = "make a restore point on";
        let may = "SELECT has_function_privilege('pg_create_restore_point(text)', 'EXECUTE')::text";
        if self.session.value(VERB, may, &[])?.as_deref() != Some("true") {
            let role = quoted(&self.user);
            let what = format!("role {role} may not make restore points");
            let advice = format!(
                "give --admin with a superuser, or GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO {role}"
            );
            return Err(failed(ErrorCode::Permission, what, Some(advice)));
        }
        let lsn =
            self.session.value(VERB, "SELECT pg_create_restore_point($1)", &[name])?.unwrap_or_default();
        let moment = self.session.value(VERB, "SELECT to_json(now())#>>'{}'", &[])?.unwrap_or_default();
        let not_understood =
            |what: &str| failed(ErrorCode::Failure, format!("`{what}` is not understood"), None);
        let (lsn, moment) = (
            lsn.parse().map_err(|_| not_understood(&lsn))?,
            moment.parse().map_err(|_| not_understood(&moment))?,
        );
        let switched = self.session.attempt("end a segment of", "SELECT pg_switch_wal()", &[])?;
        Ok(PointMade { lsn, moment, not_switched: switched.err() })
    }
}
