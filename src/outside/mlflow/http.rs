//! Requests to a server and what comes of them. The one file that knows reqwest.

use std::fs::File;
use std::io::Read;
use std::time::{Duration, SystemTime};

use reqwest::blocking::{Body, Client, RequestBuilder, Response};
use reqwest::header::{CONTENT_TYPE, DATE, ETAG, RETRY_AFTER};
use reqwest::{Certificate, Identity, Method, Url};
use serde_json::Value;

use super::fault::{Fault, Refusal};
use super::settings::{Access, Server};
use crate::error::{Error, Result};

/// A longer answer is no answer to any of our questions.
const LONGEST_ANSWER: u64 = 32 << 20;

/// An upload slower than this is taken for one that hangs.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Of a server's words this much is shown.
const SHOWN_CHARACTERS: usize = 300;

/// A connection to one server. Redirections are not followed: they would carry the way in elsewhere.
pub struct Http {
    client: Client,
    base: Url,
    /// As it was named, for messages.
    uri: String,
    access: Access,
    timeout: Duration,
}

/// Bytes to be put somewhere.
pub enum Upload {
    /// So many bytes from where the file stands.
    File {
        file: File,
        bytes: u64,
    },
    Text(String),
}

/// Where files go, and with whose rights.
pub struct Place {
    url: Url,
    /// Whether it is the tracking server's, and told who we are.
    own: bool,
    headers: Vec<(String, String)>,
}

/// A good answer.
struct Answer {
    body: Vec<u8>,
    /// The tag that the place gave the bytes.
    tag: Option<String>,
    /// When the server says that it is.
    date: Option<SystemTime>,
}

impl Http {
    /// # Errors
    /// An address that cannot be one, and certificates that cannot be read.
    pub fn open(server: &Server) -> Result<Self> {
        let client = match client(server, true) {
            // A machine without certificates of its own, such as a small container.
            Err(_) if server.trust.authorities.is_some() || server.uri.starts_with("http://") => {
                client(server, false)?
            }
            other => other?,
        };
        let base = Url::parse(&server.uri).map_err(|error| {
            Error::invalid(format!(
                "the MLflow server's address '{}': {error}",
                server.uri
            ))
        })?;
        Ok(Self {
            client,
            base,
            uri: server.uri.clone(),
            access: server.access.clone(),
            timeout: server.timeout,
        })
    }

    /// What the server answers to a question; `path` such as `/api/2.0/mlflow/runs/get`.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Fault> {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(query);
        self.answered(self.client.request(Method::GET, url))
    }

    /// The first line of a page that is no JSON, such as `/version`, and what time the server says that it is.
    pub fn line(&self, path: &str) -> Result<(String, Option<SystemTime>), Fault> {
        let request = self.client.request(Method::GET, self.url(path));
        let answer = self.outcome(self.authorised(request).timeout(self.timeout))?;
        Ok((one_line(&answer.body), answer.date))
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.sent(Method::POST, path, body)
    }

    pub fn patch(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.sent(Method::PATCH, path, body)
    }

    fn sent(&self, method: Method, path: &str, body: &Value) -> Result<Value, Fault> {
        let request = self
            .client
            .request(method, self.url(path))
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string());
        self.answered(request)
    }

    fn answered(&self, request: RequestBuilder) -> Result<Value, Fault> {
        let request = self.authorised(request).timeout(self.timeout);
        let bytes = self.outcome(request)?.body;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| {
            Fault::Closed(format!(
                "{} is no MLflow server: it answers '{}'",
                self.uri,
                one_line(&bytes)
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

    /// Puts bytes at a place without holding them in memory; the tag that the place gave them.
    pub fn put(&self, place: Place, upload: Upload) -> Result<Option<String>, Fault> {
        let (body, bytes) = match upload {
            Upload::File { file, bytes } => (Body::sized(file.take(bytes), bytes), bytes),
            Upload::Text(text) => {
                let bytes = text.len() as u64;
                (Body::from(text), bytes)
            }
        };
        let enough = Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        let mut request = self.client.request(Method::PUT, place.url).body(body);
        for (name, value) in &place.headers {
            request = request.header(name, value);
        }
        if place.own {
            request = self
                .authorised(request)
                .header(CONTENT_TYPE, "application/octet-stream");
        }
        let answer = self.outcome(request.timeout(self.timeout + enough))?;
        Ok(answer.tag)
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        extend(&mut url, &path.split('/').collect::<Vec<_>>());
        url
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.access {
            Access::Anybody => request,
            Access::User { name, password } => request.basic_auth(name, Some(password)),
            Access::Token(token) => request.bearer_auth(token),
        }
    }

    fn outcome(&self, request: RequestBuilder) -> Result<Answer, Fault> {
        let away = |why: String| Fault::Away {
            why: format!("{}: {why}", self.uri),
            wait: None,
        };
        let mut response = request.send().map_err(|error| {
            let is_connecting = error.is_connect();
            let why = reason(error);
            // Time mends no certificate.
            match is_connecting && why.contains("certificate") {
                true => Fault::Closed(format!(
                    "{}: {why}; MLFLOW_TRACKING_SERVER_CERT_PATH names whom to trust",
                    self.uri
                )),
                false => away(why),
            }
        })?;
        let tag = header(&response, ETAG.as_str());
        let date = header(&response, DATE.as_str()).and_then(|text| time_of(&text));
        let mut body = Vec::new();
        let read = response
            .by_ref()
            .take(LONGEST_ANSWER)
            .read_to_end(&mut body);
        if response.status().is_success() {
            read.map_err(|error| away(format!("the answer broke off: {error}")))?;
            return Ok(Answer { body, tag, date });
        }
        Err(self.fault(&response, &body))
    }

    fn fault(&self, response: &Response, body: &[u8]) -> Fault {
        let status = response.status().as_u16();
        let said: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        let message = match text("message") {
            none if none.is_empty() => one_line(body),
            message => one_line(message.as_bytes()),
        };
        let named = format!("{} answers {status}: {message}", self.uri);
        match status {
            300..=399 => Fault::Closed(format!(
                "{} sends us on to '{}'; name that server, or see who stands in between",
                self.uri,
                header(response, "location").unwrap_or_default()
            )),
            401 => Fault::Closed(format!(
                "{named}; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )),
            403 => Fault::Closed(format!("{named}; this user or host may not do that")),
            408 | 425 | 429 | 500 | 502..=599 => Fault::Away {
                why: named,
                wait: header(response, RETRY_AFTER.as_str()).and_then(|text| asked_wait(&text)),
            },
            _ => Fault::Refused(Refusal {
                status,
                code: text("error_code"),
                message: named,
            }),
        }
    }
}

/// With the system's certificates beside those that are named, or with these alone.
fn client(server: &Server, with_system: bool) -> Result<Client> {
    // Fails only where one is chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trust = &server.trust;
    let mut named = Vec::new();
    if let Some(path) = &trust.authorities {
        let pem = std::fs::read(path).map_err(Error::io(path, "read"))?;
        named = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if named.is_empty() {
            return Err(Error::file(
                path,
                "holds no certificate; expected PEM text, as MLFLOW_TRACKING_SERVER_CERT_PATH names it",
            ));
        }
    }
    let mut client = Client::builder()
        .user_agent(concat!("ctseg/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT.min(server.timeout));
    client = match (trust.insecure, with_system) {
        (true, _) => client.tls_danger_accept_invalid_certs(true),
        (false, true) => client.tls_certs_merge(named),
        (false, false) => client.tls_certs_only(named),
    };
    if let Some(path) = &trust.identity {
        let pem = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let identity = Identity::from_pem(&pem).map_err(|_| {
            Error::file(
                path,
                "expected a certificate and its private key in PEM text",
            )
        })?;
        client = client.identity(identity);
    }
    client.build().map_err(|error| {
        Error::invalid(format!(
            "cannot open a connection: {}; MLFLOW_TRACKING_SERVER_CERT_PATH names certificates",
            reason(error)
        ))
    })
}

fn extend(url: &mut Url, segments: &[&str]) {
    let segments = segments.iter().filter(|segment| !segment.is_empty());
    // Every http address has a path.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
}

fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// `Retry-After`: seconds, or a date.
fn asked_wait(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = time_of(text)?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

/// A date as HTTP writes it.
fn time_of(text: &str) -> Option<SystemTime> {
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(SystemTime::from(at.timestamp()))
}

/// The innermost cause, without the address: what is signed in it is nobody's business.
fn reason(error: reqwest::Error) -> String {
    let kind = match &error {
        error if error.is_timeout() => "no answer in time",
        error if error.is_connect() => "cannot be reached",
        _ => "the connection failed",
    };
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{kind} ({})", one_line(cause.to_string().as_bytes()))
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(16 << 10)]).into_owned();
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_ask_for_time_in_two_ways() {
        assert_eq!(asked_wait(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(
            asked_wait("Wed, 21 Oct 2015 07:28:00 GMT"),
            Some(Duration::ZERO)
        );
        let far = asked_wait("Mon, 01 Jan 2125 00:00:00 GMT").unwrap();
        assert!(far > Duration::from_secs(3600));
        assert_eq!(asked_wait("soon"), None);
    }

    #[test]
    fn long_answers_are_cut_where_letters_end() {
        let text = "ä".repeat(SHOWN_CHARACTERS + 1);
        assert_eq!(
            one_line(text.as_bytes()).chars().count(),
            SHOWN_CHARACTERS + 1
        );
        assert_eq!(one_line(b"a\n b\tc"), "a b c");
    }
}
