//! What goes wrong between us and a server, in words and as a code.

use hikae_model::ErrorCode;
use std::io;

/// Why the server did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub(in crate::postgresql) enum WireError {
    /// The server says no.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// Nobody answers there.
    #[error("cannot reach the server: {0}")]
    Unreachable(io::Error),
    /// The connection broke.
    #[error("the connection to the server broke: {0}")]
    Broken(io::Error),
    /// What came is not what the protocol says.
    #[error("the server's answer is not understood: {0}")]
    Protocol(String),
    /// We could not prove who we are, or the server who it is.
    #[error("{0}")]
    Refused(String),
    /// The work was cancelled.
    #[error("interrupted")]
    Cancelled,
}

/// An error as the server reports it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::postgresql) struct ServerError {
    pub(in crate::postgresql) severity: String,
    /// SQLSTATE.
    pub(in crate::postgresql) code: String,
    pub(in crate::postgresql) message: String,
    pub(in crate::postgresql) detail: String,
    pub(in crate::postgresql) hint: String,
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

impl WireError {
    /// The SQLSTATE, if the server said no.
    pub(in crate::postgresql) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.code),
            _ => None,
        }
    }

    /// What kind of failure this is, by appendix "PostgreSQL Error Codes".
    pub(in crate::postgresql) fn code(&self) -> ErrorCode {
        match self {
            Self::Server(error) => match error.code.as_str() {
                "42501" => ErrorCode::Permission,
                "3D000" => ErrorCode::SourceMissing,
                "55P03" | "55006" | "53300" => ErrorCode::Busy,
                "53100" => ErrorCode::NoSpace,
                code if code.starts_with("28") => ErrorCode::Permission,
                code if code.starts_with("57P") => ErrorCode::SourceMissing,
                _ => ErrorCode::Failure,
            },
            Self::Unreachable(_) => ErrorCode::SourceMissing,
            Self::Refused(_) => ErrorCode::Permission,
            Self::Cancelled => ErrorCode::Interrupted,
            Self::Broken(_) | Self::Protocol(_) => ErrorCode::Failure,
        }
    }
}

/// Why a COPY in failed: by the server, or because what it was to copy could not be read.
#[derive(Debug, thiserror::Error)]
pub(in crate::postgresql) enum CopyInError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{0}")]
    Source(io::Error),
}
