//! The HTTP client: requests, responses and failures.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::blocking::{self, RequestBuilder};
use reqwest::header::{CONTENT_TYPE, DATE, ETAG, LOCATION, RETRY_AFTER};
use reqwest::{Method, Url};

use crate::failure::{ConnectionProblem, ErrorResponse, Failure, problem_of, reason};
use crate::login::Login;
use crate::resolver::SystemResolver;
use crate::tls::Trust;
use ctseg_base::{Error, Result};

/// A longer response is cut off.
const MAX_RESPONSE_BYTES: u64 = 32 << 20;

/// Slowest upload that the timeout allows for.
const MIN_UPLOAD_BYTES_PER_SECOND: u64 = 64 << 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends requests. Redirects are not followed: they could lead to another server.
pub struct Client {
    client: blocking::Client,
    /// Without the client certificate, for origins that the login does not cover; `None` without a client certificate.
    without_identity: Option<blocking::Client>,
    login: Login,
    timeout: Duration,
}

pub struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    /// Sent without the login, whatever its origin.
    pub is_anonymous: bool,
}

pub enum Body {
    Empty,
    Json(String),
    Text(String),
    /// This many bytes from the current position, streamed.
    File {
        file: File,
        bytes: u64,
    },
}

/// A response with a 2xx status.
pub struct Response {
    pub body: Vec<u8>,
    pub etag: Option<String>,
    pub date: Option<SystemTime>,
}

impl Client {
    /// Opens a client. `login` and the client certificate in `trust` are sent only to the login's origins. Requests
    /// time out after `timeout`, uploads later by their size. `certificates` is the setting for the CA certificates,
    /// for messages.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn open(
        login: Login,
        trust: &Trust,
        timeout: Duration,
        certificates: &str,
    ) -> Result<Self> {
        let opened = |trust: &Trust, with_system| -> Result<blocking::Client> {
            let client = blocking::Client::builder()
                .user_agent(concat!("ctseg/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none())
                .dns_resolver(Arc::new(SystemResolver))
                .connect_timeout(CONNECT_TIMEOUT.min(timeout));
            let client = trust.apply(client, with_system, certificates)?;
            client.build().map_err(|error| {
                Error::invalid(format!(
                    "cannot set up TLS: {}; name the CA certificates with {certificates}",
                    reason(error)
                ))
            })
        };
        let client = |trust: &Trust| match opened(trust, true) {
            // No system certificates, such as in a small container.
            Err(_) if trust.authorities.is_some() || login.is_plain() => opened(trust, false),
            other => other,
        };
        let without_identity = match trust.identity {
            Some(_) => Some(client(&Trust {
                identity: None,
                ..trust.clone()
            })?),
            None => None,
        };
        Ok(Self {
            client: client(trust)?,
            without_identity,
            login,
            timeout,
        })
    }

    /// The login sent with its requests.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Whether there is a login or client certificate that is not sent to `url`.
    pub fn withholds_login(&self, url: &Url) -> bool {
        !self.login.is_for(url) && (self.login.is_secret() || self.without_identity.is_some())
    }

    /// Whether the request is sent with the login and the client certificate.
    fn sends_login(&self, request: &Request) -> bool {
        !request.is_anonymous && self.login.is_for(&request.url)
    }

    fn client_for(&self, sends_login: bool) -> &blocking::Client {
        match &self.without_identity {
            Some(client) if !sends_login => client,
            _ => &self.client,
        }
    }

    /// # Errors
    /// Any response without a 2xx status is an error.
    pub fn send(&self, request: Request) -> Result<Response, Failure> {
        let mut response = self
            .prepare(request)
            .send()
            .map_err(|error| Failure::Connection {
                problem: problem_of(&error),
                why: reason(error),
            })?;
        let etag = header(&response, ETAG.as_str());
        let date = header(&response, DATE.as_str()).and_then(|text| time_of(&text));
        let mut body = Vec::new();
        let read = response
            .by_ref()
            .take(MAX_RESPONSE_BYTES)
            .read_to_end(&mut body);
        if response.status().is_success() {
            read.map_err(|error| Failure::Connection {
                problem: ConnectionProblem::Other,
                why: format!("the response ended early: {error}"),
            })?;
            return Ok(Response { body, etag, date });
        }
        Err(Failure::Status(ErrorResponse {
            status: response.status().as_u16(),
            body,
            location: header(&response, LOCATION.as_str()).unwrap_or_default(),
            retry_after: header(&response, RETRY_AFTER.as_str())
                .and_then(|text| parse_retry_after(&text)),
        }))
    }

    pub(super) fn prepare(&self, request: Request) -> RequestBuilder {
        let sends_login = self.sends_login(&request);
        let mut builder = self
            .client_for(sends_login)
            .request(request.method, request.url);
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        let (body, uploaded) = match request.body {
            Body::Empty => (None, 0),
            Body::Json(text) => {
                builder = builder.header(CONTENT_TYPE, "application/json");
                (Some(blocking::Body::from(text)), 0)
            }
            Body::Text(text) => {
                let bytes = text.len() as u64;
                (Some(blocking::Body::from(text)), bytes)
            }
            Body::File { file, bytes } => {
                let body = blocking::Body::sized(file.take(bytes), bytes);
                (Some(body), bytes)
            }
        };
        if let Some(body) = body {
            builder = builder.body(body);
        }
        if sends_login {
            builder = self.login.authorise(builder);
        }
        let upload_time = Duration::from_secs(uploaded / MIN_UPLOAD_BYTES_PER_SECOND);
        builder.timeout(self.timeout + upload_time)
    }
}

impl Request {
    pub fn new(method: Method, url: Url, body: Body) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            body,
            is_anonymous: false,
        }
    }

    pub fn get(url: Url) -> Self {
        Self::new(Method::GET, url, Body::Empty)
    }
}

fn header(response: &blocking::Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// Parses `Retry-After`: seconds, or a date.
pub fn parse_retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = time_of(text)?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Parses an HTTP date.
fn time_of(text: &str) -> Option<SystemTime> {
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(SystemTime::from(at.timestamp()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::login::Credentials;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(parse_retry_after(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(
            parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"),
            Some(Duration::ZERO)
        );
        let far = parse_retry_after("Mon, 01 Jan 2125 00:00:00 GMT").unwrap();
        assert!(far > Duration::from_secs(3600));
        assert_eq!(parse_retry_after("soon"), None);
    }

    #[test]
    fn connections_that_fail_have_a_kind() {
        let trust = Trust {
            insecure: true,
            ..Trust::default()
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let silent = listener.local_addr().unwrap().port();
        // The listener is dropped at once.
        let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr();
        let closed = closed.unwrap().port();
        for (address, expected) in [
            (
                format!("http://127.0.0.1:{closed}"),
                ConnectionProblem::Refused,
            ),
            (
                format!("http://127.0.0.1:{silent}"),
                ConnectionProblem::TimedOut,
            ),
            (
                "http://no-such-host.invalid".to_owned(),
                ConnectionProblem::UnknownHost,
            ),
        ] {
            let url = Url::parse(&address).unwrap();
            let login = Login::new(url.clone(), Credentials::Anonymous);
            let client = Client::open(login, &trust, Duration::from_millis(500), "").unwrap();
            let Err(Failure::Connection { problem, why }) = client.send(Request::get(url)) else {
                panic!("{address} answers");
            };
            assert_eq!(problem, expected, "{address}: {why}");
        }
    }

    #[test]
    fn the_client_certificate_is_sent_only_with_the_login() {
        let url = |text: &str| Url::parse(text).unwrap();
        let login = Login::new(url("http://tracking:5000"), Credentials::Anonymous);
        let login = login.with_origins(vec![url("https://files:8443")]);
        // Made for this test.
        let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/own.pem");
        let trust = Trust {
            identity: Some(pem.into()),
            ..Trust::default()
        };
        let client = Client::open(login, &trust, Duration::from_secs(1), "").unwrap();
        let sends_identity = |address: &str, is_anonymous: bool| {
            let request = Request {
                is_anonymous,
                ..Request::get(url(address))
            };
            let used = client.client_for(client.sends_login(&request));
            std::ptr::eq(used, &client.client)
        };
        for own in ["http://tracking:5000/api", "https://files:8443/api"] {
            assert!(
                sends_identity(own, false) && !sends_identity(own, true),
                "{own}"
            );
            assert!(!client.withholds_login(&url(own)), "{own}");
        }
        for other in [
            "https://tracking:5000",
            "https://files",
            "https://x.files:8443",
        ] {
            assert!(!sends_identity(other, false), "{other}");
            assert!(client.withholds_login(&url(other)), "{other}");
        }
    }
}
