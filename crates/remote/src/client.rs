//! The client of HTTP that every store over the network asks with.

use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector};
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

const CONNECTS_WITHIN: Duration = Duration::from_secs(15);

/// What an address may begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// `https://` only.
    #[default]
    Https,
    /// `http://` only: no certificate is looked at, so none is read.
    Http,
    /// Either.
    Any,
}

/// How a server is reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Certificates that servers' are checked against, beside those of the system.
    pub certificates: Vec<reqwest::Certificate>,
    /// What may be asked.
    pub scheme: Scheme,
    /// Past every proxy: it is on this machine.
    pub is_near: bool,
}

impl Reach {
    /// With the certificates of a file, in PEM.
    pub fn with_certificates(path: Option<&Path>) -> io::Result<Self> {
        let certificates = match path {
            Some(path) => {
                reqwest::Certificate::from_pem_bundle(&fs::read(path)?).map_err(io::Error::other)?
            }
            None => Vec::new(),
        };
        Ok(Self { certificates, ..Self::default() })
    }

    /// A client that goes where it is sent and nowhere else: whoever answers "ask that one" would be sent the token of our
    /// session with the second request.
    pub fn client(&self) -> Result<HttpClient, reqwest::Error> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("hikae/", env!("CARGO_PKG_VERSION")))
            .redirect(match hikae_model::sabotage::on("redirects-followed") {
                true => reqwest::redirect::Policy::default(),
                false => reqwest::redirect::Policy::none(),
            })
            .connect_timeout(CONNECTS_WITHIN)
            .https_only(self.scheme == Scheme::Https);
        builder = match self.scheme {
            Scheme::Http => builder.tls_certs_only([]),
            Scheme::Https | Scheme::Any => builder.tls_certs_merge(self.certificates.iter().cloned()),
        };
        if self.is_near {
            builder = builder.no_proxy().pool_max_idle_per_host(0);
        }
        Ok(HttpClient::new(builder.build()?))
    }
}

/// Hands out a client that is ready.
#[derive(Debug)]
pub(crate) struct Ready(pub HttpClient);

impl HttpConnector for Ready {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}
