//! Requests to an MLflow server and what comes of them.

use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::Value;

use super::error::{Fault, Refusal};
use super::settings::Server;
use ctseg_base::{Error, Result};
use ctseg_http::{
    Answer, Body, Client, ErrorAnswer, Failure, Login, Method, Request, Url, one_line,
};

/// The variable that names whom to trust.
const CERTIFICATES: &str = "MLFLOW_TRACKING_SERVER_CERT_PATH";

/// A connection to one server.
pub struct Http {
    client: Client,
    base: Url,
    /// As it was named, for messages.
    uri: String,
    /// The folder of this machine below which the server may have files put.
    pub(super) artifact_root: Option<PathBuf>,
}

/// Where files go, and with whose rights.
pub struct Place {
    url: Url,
    /// Whether it is a tracking server's, which is told who we are if its origin is one of the login's.
    own: bool,
    headers: Vec<(String, String)>,
}

impl Http {
    /// # Errors
    /// An address that cannot be one, and certificates that cannot be read.
    pub fn open(server: &Server) -> Result<Self> {
        let base = Url::parse(&server.uri).map_err(|error| {
            Error::invalid(format!(
                "the MLflow server's address '{}': {error}",
                server.uri
            ))
        })?;
        let login = Login::new(base.clone(), server.access.clone());
        let login = login.also_for(server.trusted.clone());
        Ok(Self {
            client: Client::open(login, &server.trust, server.timeout, CERTIFICATES)?,
            base,
            uri: server.uri.clone(),
            artifact_root: server.artifact_root.clone(),
        })
    }

    /// What the server answers to a question; `path` such as `/api/2.0/mlflow/runs/get`.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Fault> {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(query);
        self.answered(Request::get(url))
    }

    /// The first line of a page that is no JSON, such as `/version`, and what time the server says that it is.
    pub fn line(&self, path: &str) -> Result<(String, Option<SystemTime>), Fault> {
        let answer = self.outcome(self.client.send(Request::get(self.url(path))))?;
        Ok((one_line(&answer.body), answer.date))
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.sent(Method::POST, path, body)
    }

    pub fn patch(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.sent(Method::PATCH, path, body)
    }

    fn sent(&self, method: Method, path: &str, body: &Value) -> Result<Value, Fault> {
        let body = Body::Json(body.to_string());
        self.answered(Request::new(method, self.url(path), body))
    }

    fn answered(&self, request: Request) -> Result<Value, Fault> {
        self.said(&self.outcome(self.client.send(request))?.body)
    }

    /// What a good answer says; null where its body is empty.
    ///
    /// # Errors
    /// [`Fault::Closed`] for what is no JSON.
    pub fn said(&self, body: &[u8]) -> Result<Value, Fault> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(body).map_err(|_| {
            Fault::Closed(format!(
                "{} is no MLflow server: it answers '{}'",
                self.uri,
                one_line(body)
            ))
        })
    }

    /// A place that the server has named, with what it wants to be said there; `own` as in [`Place`].
    pub fn named_place(
        &self,
        address: &str,
        segments: &[&str],
        headers: Vec<(String, String)>,
        own: bool,
    ) -> Result<Place, Fault> {
        let parsed = Url::parse(address).ok();
        let Some(mut url) = parsed.filter(|url| ["http", "https"].contains(&url.scheme())) else {
            return Err(Fault::Closed(format!(
                "{} names a place for files that is none",
                self.uri
            )));
        };
        extend(&mut url, segments);
        Ok(Place { url, own, headers })
    }

    /// The server's own scheme, host and path, with another host if there is one, such as `https://host/mlflow`.
    pub fn base_at(&self, host: &str) -> String {
        let path = self.base.path().trim_end_matches('/');
        match host {
            "" => format!("{}{path}", self.base.origin().ascii_serialization()),
            host => format!("{}://{host}{path}", self.base.scheme()),
        }
    }

    /// A warning where the login would go to `base`, another server than this one, unencrypted.
    pub fn risk_at(&self, base: &str) -> Option<String> {
        let url = Url::parse(base).ok()?;
        let is_other = url.origin() != self.base.origin();
        (is_other && self.client.login().is_exposed_at(&url)).then(|| {
            let origin = url.origin().ascii_serialization();
            format!("the login is sent to {origin}, which stores the files, unencrypted; use an https:// address")
        })
    }

    /// Puts bytes at a place without holding them in memory; the tag that the place gave them.
    pub fn put(&self, place: Place, body: Body) -> Result<Option<String>, Fault> {
        let mut headers = place.headers;
        if place.own {
            headers.push((
                "content-type".to_owned(),
                "application/octet-stream".to_owned(),
            ));
        }
        let is_withheld = place.own && self.client.withholds(&place.url);
        let named = self.named(&place.url);
        let sent = self.client.send(Request {
            headers,
            is_anonymous: !place.own,
            ..Request::new(Method::PUT, place.url, body)
        });
        match sent {
            Err(Failure::Status(answer)) if is_withheld && [401, 403].contains(&answer.status) => {
                Err(Fault::Place(format!(
                    "{} stores files at {named}, which answers {}; list \"{named}\" in trusted_servers in \
                     ~/.config/ctseg/config.toml if it may have the login, and 'ctseg sync' then sends the files",
                    self.uri, answer.status
                )))
            }
            other => Ok(self.outcome_at(&named, other)?.tag),
        }
    }

    /// What messages call the server at `url`.
    fn named(&self, url: &Url) -> String {
        match url.origin() == self.base.origin() {
            true => self.uri.clone(),
            false => url.origin().ascii_serialization(),
        }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        extend(&mut url, &path.split('/').collect::<Vec<_>>());
        url
    }

    fn outcome(&self, sent: Result<Answer, Failure>) -> Result<Answer, Fault> {
        self.outcome_at(&self.uri, sent)
    }

    /// The same of the server that messages call `named`.
    fn outcome_at(&self, named: &str, sent: Result<Answer, Failure>) -> Result<Answer, Fault> {
        sent.map_err(|failure| match failure {
            Failure::Connection {
                why,
                is_certificate: true,
            } => Fault::Closed(format!(
                "{named}: {why}; {CERTIFICATES} names whom to trust"
            )),
            Failure::Connection { why, .. } => Fault::Away {
                why: format!("{named}: {why}"),
                wait: None,
            },
            Failure::Status(answer) => fault_of(named, &answer),
        })
    }

    /// What is to be done about an answer that is none of success.
    pub fn fault(&self, answer: &ErrorAnswer) -> Fault {
        fault_of(&self.uri, answer)
    }
}

/// [`Http::fault`] of the server that messages call `named`.
fn fault_of(named: &str, answer: &ErrorAnswer) -> Fault {
    let status = answer.status;
    let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
    let message = match text("message") {
        none if none.is_empty() => one_line(&answer.body),
        message => one_line(message.as_bytes()),
    };
    let told = format!("{named} answers {status}: {message}");
    match status {
        300..=399 => Fault::Closed(format!(
            "{named} sends us on to '{}'; name that server, or see who stands in between",
            answer.location
        )),
        401 => Fault::Closed(format!(
            "{told}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )),
        403 => Fault::Closed(format!("{told}; this user or host may not do that")),
        408 | 425 | 429 | 500 | 502..=599 => Fault::Away {
            why: told,
            wait: answer.retry_after,
        },
        _ => Fault::Refused(Refusal {
            status,
            code: text("error_code"),
            message: told,
        }),
    }
}

fn extend(url: &mut Url, segments: &[&str]) {
    let segments = segments.iter().filter(|segment| !segment.is_empty());
    // Every http address has a path.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
}
