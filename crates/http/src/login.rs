//! Logins bound to origins (scheme, host and port).

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;
use reqwest::blocking::RequestBuilder;

/// Credentials for a server. Their debug text shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    Anonymous,
    User { name: String, password: String },
    Token(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::User { .. } => "User(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// Credentials that are sent only to certain origins.
#[derive(Debug, Clone)]
pub struct Login {
    /// Any address of the main origin.
    home: Url,
    /// Addresses of further origins.
    others: Vec<Url>,
    credentials: Credentials,
}

impl Login {
    /// For the origin of `home`.
    pub fn new(home: Url, credentials: Credentials) -> Self {
        Self {
            home,
            others: Vec::new(),
            credentials,
        }
    }

    /// Adds the origins of `others`.
    pub fn with_origins(self, others: Vec<Url>) -> Self {
        Self { others, ..self }
    }

    /// Whether it may be sent to `url`.
    pub fn is_for(&self, url: &Url) -> bool {
        let mut own = std::iter::once(&self.home).chain(&self.others);
        own.any(|own| own.origin() == url.origin())
    }

    pub(super) fn is_secret(&self) -> bool {
        self.credentials != Credentials::Anonymous
    }

    /// Whether a secret would be sent to `url` unencrypted, to another machine.
    pub fn is_exposed_at(&self, url: &Url) -> bool {
        self.is_secret() && self.is_for(url) && url.scheme() == "http" && !is_loopback(url)
    }

    /// Whether its main origin uses plain HTTP.
    pub(super) fn is_plain(&self) -> bool {
        self.home.scheme() == "http"
    }

    /// Adds the login to a request to one of its origins.
    pub(super) fn authorise(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.credentials {
            Credentials::Anonymous => request,
            Credentials::User { name, password } => request.basic_auth(name, Some(password)),
            Credentials::Token(token) => request.bearer_auth(token),
        }
    }
}

/// Whether `url` is on this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        // Some systems resolve `x.localhost` by DNS.
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::AUTHORIZATION;

    use super::*;
    use crate::{Client, Request, Trust};

    #[test]
    fn a_login_is_sent_only_to_its_origin() {
        let home = Url::parse("http://tracking:5000/mlflow").unwrap();
        let token = Credentials::Token("s3cret".to_owned());
        let user = Credentials::User {
            name: "ann".to_owned(),
            password: "s3cret".to_owned(),
        };
        for (credentials, sent) in [(token, "Bearer s3cret"), (user, "Basic YW5uOnMzY3JldA==")] {
            let login = Login::new(home.clone(), credentials);
            let timeout = std::time::Duration::from_secs(1);
            let client = Client::open(login, &Trust::default(), timeout, "CERTIFICATES").unwrap();
            let sent_to = |url: &str, is_anonymous: bool| {
                let request = Request {
                    is_anonymous,
                    ..Request::get(Url::parse(url).unwrap())
                };
                let request = client.prepare(request).build().unwrap();
                let header = request.headers().get(AUTHORIZATION)?;
                Some(header.to_str().unwrap().to_owned())
            };
            let own = "http://tracking:5000/api/2.0/mlflow/runs/get";
            assert_eq!(sent_to(own, false).as_deref(), Some(sent));
            assert_eq!(sent_to(own, true), None);
            for other in [
                "https://tracking:5000/api",
                "http://tracking/api",
                "http://tracking:5001/api",
                "http://store:5000/api",
                "http://tracking.store:5000/api",
                "http://tracking.:5000/api",
                "http://store\\@tracking:5000/api",
            ] {
                assert_eq!(sent_to(other, false), None, "{other}");
            }
        }
    }

    #[test]
    fn a_login_may_have_several_origins() {
        let url = |text: &str| Url::parse(text).unwrap();
        let login = Login::new(
            url("https://tracking"),
            Credentials::Token("s3cret".to_owned()),
        );
        let login = login.with_origins(vec![url("https://files:8443/any/path")]);
        assert!(login.is_for(&url("https://tracking:443/api")));
        assert!(login.is_for(&url("HTTPS://FILES:8443/api")));
        assert!(!login.is_for(&url("https://files/api")));
        assert!(!login.is_for(&url("http://files:8443/api")));
        let login = login.with_origins(vec![url("http://[::1]:80/")]);
        assert!(login.is_for(&url("http://[0:0::0:1]")));
        assert!(!login.is_for(&url("http://127.0.0.1")));
    }

    #[test]
    fn secrets_are_exposed_by_plain_http_to_other_machines() {
        let token = Credentials::Token("s3cret".to_owned());
        let is_exposed = |text: &str, credentials: &Credentials| {
            let url = Url::parse(text).unwrap();
            Login::new(url.clone(), credentials.clone()).is_exposed_at(&url)
        };
        for exposed in [
            "http://tracking:5000",
            "http://10.0.0.7",
            "http://[fe80::1]:5000",
            "http://x.localhost:5000",
        ] {
            assert!(is_exposed(exposed, &token), "{exposed}");
            assert!(!is_exposed(exposed, &Credentials::Anonymous), "{exposed}");
        }
        for safe in [
            "https://tracking:5000",
            "http://127.0.0.1:5000",
            "http://127.8.0.1",
            "http://localhost:5000",
            "http://[::1]:5000",
        ] {
            assert!(!is_exposed(safe, &token), "{safe}");
        }
    }
}
