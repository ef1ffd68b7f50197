//! Logins, each of which belongs to the origins (scheme, host and port) that it was given for.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;
use reqwest::blocking::RequestBuilder;

/// Who we are to the server. Its text never shows a secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Access {
    Anybody,
    User { name: String, password: String },
    Token(String),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anybody => "Anybody",
            Self::User { .. } => "User(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// A way in that only its own origins are told of.
#[derive(Debug, Clone)]
pub struct Login {
    /// Any address there.
    home: Url,
    /// Addresses of further origins that it may go to.
    others: Vec<Url>,
    access: Access,
}

impl Login {
    /// For the origin of `home`.
    pub fn new(home: Url, access: Access) -> Self {
        Self {
            home,
            others: Vec::new(),
            access,
        }
    }

    /// The same, also for the origins of `others`.
    pub fn also_for(self, others: Vec<Url>) -> Self {
        Self { others, ..self }
    }

    /// Whether `url` is of one of its origins.
    pub fn is_for(&self, url: &Url) -> bool {
        let mut own = std::iter::once(&self.home).chain(&self.others);
        own.any(|own| own.origin() == url.origin())
    }

    pub(super) fn is_secret(&self) -> bool {
        self.access != Access::Anybody
    }

    /// Whether a secret would go to `url` unencrypted and leave this machine.
    pub fn is_exposed_at(&self, url: &Url) -> bool {
        self.is_secret() && self.is_for(url) && url.scheme() == "http" && !is_loopback(url)
    }

    /// Whether its origin has no certificate.
    pub(super) fn is_plain(&self) -> bool {
        self.home.scheme() == "http"
    }

    /// `request`, which goes to one of its origins, with the login.
    pub(super) fn authorise(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.access {
            Access::Anybody => request,
            Access::User { name, password } => request.basic_auth(name, Some(password)),
            Access::Token(token) => request.bearer_auth(token),
        }
    }
}

/// Whether `url` names this machine.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        // Names such as `x.localhost` are asked of name servers by some systems.
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::AUTHORIZATION;

    use super::*;
    use crate::{Client, Request, Trust};

    #[test]
    fn only_its_own_origin_is_told_of_a_login() {
        let home = Url::parse("http://tracking:5000/mlflow").unwrap();
        let token = Access::Token("s3cret".to_owned());
        let user = Access::User {
            name: "ann".to_owned(),
            password: "s3cret".to_owned(),
        };
        for (access, sent) in [(token, "Bearer s3cret"), (user, "Basic YW5uOnMzY3JldA==")] {
            let login = Login::new(home.clone(), access);
            let timeout = std::time::Duration::from_secs(1);
            let client = Client::open(login, &Trust::default(), timeout, "CERTIFICATES").unwrap();
            let told = |url: &str, is_anonymous: bool| {
                let request = Request {
                    is_anonymous,
                    ..Request::get(Url::parse(url).unwrap())
                };
                let request = client.prepared(request).build().unwrap();
                let header = request.headers().get(AUTHORIZATION)?;
                Some(header.to_str().unwrap().to_owned())
            };
            let own = "http://tracking:5000/api/2.0/mlflow/runs/get";
            assert_eq!(told(own, false).as_deref(), Some(sent));
            assert_eq!(told(own, true), None);
            for other in [
                "https://tracking:5000/api",
                "http://tracking/api",
                "http://tracking:5001/api",
                "http://store:5000/api",
                "http://tracking.store:5000/api",
                "http://tracking.:5000/api",
                "http://store\\@tracking:5000/api",
            ] {
                assert_eq!(told(other, false), None, "{other}");
            }
        }
    }

    #[test]
    fn further_origins_are_told_where_they_are_named() {
        let url = |text: &str| Url::parse(text).unwrap();
        let login = Login::new(url("https://tracking"), Access::Token("s3cret".to_owned()));
        let login = login.also_for(vec![url("https://files:8443/any/path")]);
        assert!(login.is_for(&url("https://tracking:443/api")));
        assert!(login.is_for(&url("HTTPS://FILES:8443/api")));
        assert!(!login.is_for(&url("https://files/api")));
        assert!(!login.is_for(&url("http://files:8443/api")));
        let login = login.also_for(vec![url("http://[::1]:80/")]);
        assert!(login.is_for(&url("http://[0:0::0:1]")));
        assert!(!login.is_for(&url("http://127.0.0.1")));
    }

    #[test]
    fn secrets_are_exposed_by_plain_http_to_other_machines() {
        let token = Access::Token("s3cret".to_owned());
        let is_exposed = |text: &str, access: &Access| {
            let url = Url::parse(text).unwrap();
            Login::new(url.clone(), access.clone()).is_exposed_at(&url)
        };
        for there in [
            "http://tracking:5000",
            "http://10.0.0.7",
            "http://[fe80::1]:5000",
            "http://x.localhost:5000",
        ] {
            assert!(is_exposed(there, &token), "{there}");
            assert!(!is_exposed(there, &Access::Anybody), "{there}");
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
