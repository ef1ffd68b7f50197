//! Certificates: whom we believe, and our own.

use std::path::PathBuf;

use reqwest::blocking::ClientBuilder;
use reqwest::{Certificate, Identity};

use ctseg_base::{Error, Result, regular_file};

/// Whom we believe to be the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Anybody.
    pub insecure: bool,
    /// Certificates (PEM) beside the system's.
    pub authorities: Option<PathBuf>,
    /// Our own certificate and key (PEM).
    pub identity: Option<PathBuf>,
}

impl Trust {
    /// `client` with the system's certificates beside those that are named, or with these alone; `setting` is what
    /// names them.
    ///
    /// # Errors
    /// Files that cannot be read, or hold no certificate.
    pub(super) fn applied(
        &self,
        mut client: ClientBuilder,
        with_system: bool,
        setting: &str,
    ) -> Result<ClientBuilder> {
        // Fails only where one is chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut named = Vec::new();
        if let Some(path) = &self.authorities {
            let pem = regular_file::read(path).map_err(Error::io(path, "read"))?;
            named = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if named.is_empty() {
                return Err(Error::file(
                    path,
                    format!("holds no certificate; expected PEM text, as {setting} names it"),
                ));
            }
        }
        client = match (self.insecure, with_system) {
            (true, _) => client.tls_danger_accept_invalid_certs(true),
            (false, true) => client.tls_certs_merge(named),
            (false, false) => client.tls_certs_only(named),
        };
        if let Some(path) = &self.identity {
            let pem = regular_file::read(path).map_err(Error::io(path, "read"))?;
            let identity = Identity::from_pem(&pem).map_err(|_| {
                Error::file(
                    path,
                    "expected a certificate and its private key in PEM text",
                )
            })?;
            client = client.identity(identity);
        }
        Ok(client)
    }
}
