//! Logins, each of which belongs to one origin.

use std::fmt;

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

/// A way in that only one origin (scheme, host and port) is told of.
#[derive(Debug, Clone)]
pub struct Login {
    /// Any address there.
    home: Url,
    access: Access,
}

impl Login {
    /// For the origin of `home`.
    pub fn new(home: Url, access: Access) -> Self {
        Self { home, access }
    }

    /// Whether its origin has no certificate.
    pub(super) fn is_plain(&self) -> bool {
        self.home.scheme() == "http"
    }

    /// `request`, which goes to `url`, with the login if `url` is of its origin.
    pub(super) fn authorise(&self, request: RequestBuilder, url: &Url) -> RequestBuilder {
        if url.origin() != self.home.origin() {
            return request;
        }
        match &self.access {
            Access::Anybody => request,
            Access::User { name, password } => request.basic_auth(name, Some(password)),
            Access::Token(token) => request.bearer_auth(token),
        }
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
            ] {
                assert_eq!(told(other, false), None, "{other}");
            }
        }
    }
}
