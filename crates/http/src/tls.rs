//! TLS certificates: those of the server, and the client certificate.

use std::path::PathBuf;

use reqwest::blocking::ClientBuilder;
use reqwest::{Certificate, Identity};

use ctseg_base::{Error, Result, regular_file};

/// How the server is verified, and the client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Accept any certificate.
    pub insecure: bool,
    /// CA certificates (PEM), in addition to the system's.
    pub authorities: Option<PathBuf>,
    /// Client certificate and private key (PEM).
    pub identity: Option<PathBuf>,
}

impl Trust {
    /// Applies the certificates to `client`, with or without the system's. `setting` names the CA certificates, for
    /// messages.
    ///
    /// # Errors
    /// A file cannot be read or contains no certificate.
    pub(super) fn apply(
        &self,
        mut client: ClientBuilder,
        with_system: bool,
        setting: &str,
    ) -> Result<ClientBuilder> {
        // Fails only if a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut named = Vec::new();
        if let Some(path) = &self.authorities {
            let pem = regular_file::read(path).map_err(Error::io(path, "read"))?;
            named = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if named.is_empty() {
                return Err(Error::file(
                    path,
                    format!("contains no certificate; {setting} expects a PEM file"),
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
                    "expected a certificate and its private key in PEM format",
                )
            })?;
            client = client.identity(identity);
        }
        Ok(client)
    }
}
