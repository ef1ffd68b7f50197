//! Requests to an MLflow server.

use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::Value;

use super::error::{Cause, ConnectionProblem, Fault, Refusal};
use super::settings::Server;
use ctseg_base::{Error, Result};
use ctseg_http::{
    Body, Client, ErrorResponse, Failure, Login, Method, Request, Response, Url, one_line,
};

/// The variable that names the CA certificate.
const CERTIFICATES: &str = "MLFLOW_TRACKING_SERVER_CERT_PATH";

/// A connection to one server.
pub struct Http {
    client: Client,
    base: Url,
    /// As configured, for messages.
    uri: String,
    /// The local folder below which the server may choose artifact folders.
    pub(super) artifact_root: Option<PathBuf>,
}

/// Where a file is uploaded.
pub struct UploadTarget {
    url: Url,
    /// Whether the login is sent along, if its origins include the URL. False for presigned URLs.
    sends_login: bool,
    headers: Vec<(String, String)>,
}

impl Http {
    /// # Errors
    /// An invalid address; certificates that cannot be read.
    pub fn open(server: &Server) -> Result<Self> {
        let base = Url::parse(&server.uri).map_err(|error| {
            Error::invalid(format!(
                "invalid MLflow server address '{}': {error}",
                server.uri
            ))
        })?;
        let login = Login::new(base.clone(), server.credentials.clone());
        let login = login.with_origins(server.trusted.clone());
        Ok(Self {
            client: Client::open(login, &server.trust, server.timeout, CERTIFICATES)?,
            base,
            uri: server.uri.clone(),
            artifact_root: server.artifact_root.clone(),
        })
    }

    /// Sends a GET request to a `path` such as `/api/2.0/mlflow/runs/get`.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Fault> {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(query);
        self.send(Request::get(url))
    }

    /// The text of a page that is not JSON, such as `/version`, on one line, and the server's time.
    pub fn line(&self, path: &str) -> Result<(String, Option<SystemTime>), Fault> {
        let answer = self.outcome(self.client.send(Request::get(self.url(path))))?;
        Ok((one_line(&answer.body), answer.date))
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.send_json(Method::POST, path, body)
    }

    pub fn patch(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.send_json(Method::PATCH, path, body)
    }

    fn send_json(&self, method: Method, path: &str, body: &Value) -> Result<Value, Fault> {
        let body = Body::Json(body.to_string());
        self.send(Request::new(method, self.url(path), body))
    }

    fn send(&self, request: Request) -> Result<Value, Fault> {
        self.parse_body(&self.outcome(self.client.send(request))?.body)
    }

    /// Parses the body of a successful response; null if it is empty.
    ///
    /// # Errors
    /// [`Fault::Fatal`] if it is not JSON.
    pub fn parse_body(&self, body: &[u8]) -> Result<Value, Fault> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(body).map_err(|_| {
            let why = format!(
                "{} is not an MLflow server: it answers '{}'",
                self.uri,
                one_line(body)
            );
            Fault::Fatal {
                cause: Cause::NotMlflow,
                why,
            }
        })
    }

    /// An upload target that the server named, with the headers that it asks for; `sends_login` as in [`UploadTarget`].
    pub fn upload_target(
        &self,
        address: &str,
        segments: &[&str],
        headers: Vec<(String, String)>,
        sends_login: bool,
    ) -> Result<UploadTarget, Fault> {
        let parsed = Url::parse(address).ok();
        let Some(mut url) = parsed.filter(|url| ["http", "https"].contains(&url.scheme())) else {
            return Err(Fault::Fatal {
                cause: Cause::NotMlflow,
                why: format!("{} returned an invalid upload address", self.uri),
            });
        };
        extend(&mut url, segments);
        Ok(UploadTarget {
            url,
            sends_login,
            headers,
        })
    }

    /// The server's scheme, host and path, such as `https://host/mlflow`; with another host unless `host` is empty.
    pub fn base_at(&self, host: &str) -> String {
        let path = self.base.path().trim_end_matches('/');
        match host {
            "" => format!("{}{path}", self.base.origin().ascii_serialization()),
            host => format!("{}://{host}{path}", self.base.scheme()),
        }
    }

    /// A warning if the login would be sent unencrypted to `base`, another server than this one.
    pub fn risk_at(&self, base: &str) -> Option<String> {
        let url = Url::parse(base).ok()?;
        let is_other = url.origin() != self.base.origin();
        (is_other && self.client.login().is_exposed_at(&url)).then(|| {
            let origin = url.origin().ascii_serialization();
            format!("the login is sent unencrypted to the artifact server {origin}; use an https:// address")
        })
    }

    /// Uploads `body`, streamed. Returns the `ETag`.
    pub fn put(&self, target: UploadTarget, body: Body) -> Result<Option<String>, Fault> {
        let mut headers = target.headers;
        if target.sends_login {
            headers.push((
                "content-type".to_owned(),
                "application/octet-stream".to_owned(),
            ));
        }
        let is_withheld = target.sends_login && self.client.withholds_login(&target.url);
        let named = self.named(&target.url);
        let sent = self.client.send(Request {
            headers,
            is_anonymous: !target.sends_login,
            ..Request::new(Method::PUT, target.url, body)
        });
        match sent {
            Err(Failure::Status(answer)) if is_withheld && [401, 403].contains(&answer.status) => {
                Err(Fault::LocationDenied(format!(
                    "{} stores artifacts at {named}, which answers {}; list \"{named}\" in trusted_servers in \
                     ~/.config/ctseg/config.toml to send it the login, then run 'ctseg sync'",
                    self.uri, answer.status
                )))
            }
            other => Ok(self.outcome_at(&named, other)?.etag),
        }
    }

    /// The name of the server at `url` in messages.
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

    fn outcome(&self, sent: Result<Response, Failure>) -> Result<Response, Fault> {
        self.outcome_at(&self.uri, sent)
    }

    /// Maps failures of the server called `named`.
    fn outcome_at(&self, named: &str, sent: Result<Response, Failure>) -> Result<Response, Fault> {
        sent.map_err(|failure| match failure {
            Failure::Connection {
                problem: problem @ ConnectionProblem::Certificate,
                why,
            } => Fault::Fatal {
                cause: Cause::Connection(problem),
                why: format!("{named}: {why}; set {CERTIFICATES} to the CA certificate"),
            },
            Failure::Connection { problem, why } => Fault::Unavailable {
                cause: Cause::Connection(problem),
                why: format!("{named}: {why}"),
                wait: None,
            },
            Failure::Status(answer) => fault_of(named, &answer),
        })
    }

    /// The fault for a response without a 2xx status.
    pub fn fault(&self, answer: &ErrorResponse) -> Fault {
        fault_of(&self.uri, answer)
    }
}

/// [`Http::fault`] for the server called `named`.
fn fault_of(named: &str, answer: &ErrorResponse) -> Fault {
    let status = answer.status;
    let reply: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| reply[key].as_str().unwrap_or_default().to_owned();
    let message = match text("message") {
        none if none.is_empty() => one_line(&answer.body),
        message => one_line(message.as_bytes()),
    };
    let problem = format!("{named} answers {status}: {message}");
    let cause = Cause::Status(status);
    let fatal = |why: String| Fault::Fatal { cause, why };
    match status {
        300..=399 => fatal(format!(
            "{named} redirects to '{}'; use that address, or check the proxy in between",
            answer.location
        )),
        401 => fatal(format!(
            "{problem}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )),
        403 => fatal(format!("{problem}; this user or host lacks permission")),
        408 | 425 | 429 | 500 | 502..=599 => Fault::Unavailable {
            cause,
            why: problem,
            wait: answer.retry_after,
        },
        _ => Fault::Refused(Refusal {
            status,
            code: text("error_code"),
            message: problem,
        }),
    }
}

fn extend(url: &mut Url, segments: &[&str]) {
    let segments = segments.iter().filter(|segment| !segment.is_empty());
    // Every HTTP address has a path.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
}
