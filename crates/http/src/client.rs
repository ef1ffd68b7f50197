//! The client: requests, and the answers or failures that come of them.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::blocking::{self, RequestBuilder, Response};
use reqwest::header::{CONTENT_TYPE, DATE, ETAG, LOCATION, RETRY_AFTER};
use reqwest::{Method, Url};

use crate::login::Login;
use crate::resolver::SystemResolver;
use crate::tls::Trust;
use ctseg_base::{Error, Result};

/// A longer answer is no answer to any of our questions.
const LONGEST_ANSWER: u64 = 32 << 20;

/// An upload slower than this is taken for one that hangs.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Of a server's words this much is shown.
const SHOWN_CHARACTERS: usize = 300;

/// Sends requests. Redirections are not followed: they would carry the request elsewhere.
pub struct Client {
    client: blocking::Client,
    /// Without our own certificate, where there is one; for origins that are not the login's.
    for_strangers: Option<blocking::Client>,
    login: Login,
    timeout: Duration,
}

/// A request to be sent once.
pub struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    /// The login does not go along, wherever the request goes.
    pub is_anonymous: bool,
}

/// What a request carries.
pub enum Body {
    Empty,
    Json(String),
    Text(String),
    /// So many bytes from where the file stands; they are not held in memory.
    File {
        file: File,
        bytes: u64,
    },
}

/// A good answer.
pub struct Answer {
    pub body: Vec<u8>,
    /// The tag that the place gave the bytes.
    pub tag: Option<String>,
    /// When the server says that it is.
    pub date: Option<SystemTime>,
}

/// Why there is no good answer.
pub enum Failure {
    /// None came; `why` names no address, as what is signed in it is nobody's business.
    Connection {
        why: String,
        /// A certificate is in the way, which time does not mend.
        is_certificate: bool,
    },
    Status(ErrorAnswer),
}

/// An answer that is none of success.
pub struct ErrorAnswer {
    pub status: u16,
    pub body: Vec<u8>,
    /// Where a redirection points; empty where none does.
    pub location: String,
    /// How long the server asks us to wait.
    pub retry_after: Option<Duration>,
}

impl Client {
    /// A client whose `login`, with our own certificate in `trust`, goes to its origins alone, and which waits `timeout`
    /// for an answer, and longer for what it uploads. `certificates` is the setting that names those of `trust`, for
    /// messages.
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
            let client = trust.applied(client, with_system, certificates)?;
            client.build().map_err(|error| {
                Error::invalid(format!(
                    "cannot open a connection: {}; {certificates} names certificates",
                    reason(error)
                ))
            })
        };
        let client = |trust: &Trust| match opened(trust, true) {
            // A machine without certificates of its own, such as a small container.
            Err(_) if trust.authorities.is_some() || login.is_plain() => opened(trust, false),
            other => other,
        };
        let for_strangers = match trust.identity {
            Some(_) => Some(client(&Trust {
                identity: None,
                ..trust.clone()
            })?),
            None => None,
        };
        Ok(Self {
            client: client(trust)?,
            for_strangers,
            login,
            timeout,
        })
    }

    /// What goes with its requests.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// Whether we have a login or a certificate of our own that does not go to `url`.
    pub fn withholds(&self, url: &Url) -> bool {
        !self.login.is_for(url) && (self.login.is_secret() || self.for_strangers.is_some())
    }

    /// Whether the request goes with the login and our own certificate.
    fn is_told(&self, request: &Request) -> bool {
        !request.is_anonymous && self.login.is_for(&request.url)
    }

    fn way(&self, is_told: bool) -> &blocking::Client {
        match &self.for_strangers {
            Some(client) if !is_told => client,
            _ => &self.client,
        }
    }

    /// # Errors
    /// Any response without a 2xx status is an error.
    pub fn send(&self, request: Request) -> Result<Answer, Failure> {
        let mut response = self.prepared(request).send().map_err(|error| {
            let is_connecting = error.is_connect();
            let why = reason(error);
            Failure::Connection {
                is_certificate: is_connecting && why.contains("certificate"),
                why,
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
            read.map_err(|error| Failure::Connection {
                why: format!("the answer broke off: {error}"),
                is_certificate: false,
            })?;
            return Ok(Answer { body, tag, date });
        }
        Err(Failure::Status(ErrorAnswer {
            status: response.status().as_u16(),
            body,
            location: header(&response, LOCATION.as_str()).unwrap_or_default(),
            retry_after: header(&response, RETRY_AFTER.as_str()).and_then(|text| asked_wait(&text)),
        }))
    }

    pub(super) fn prepared(&self, request: Request) -> RequestBuilder {
        let is_told = self.is_told(&request);
        let mut builder = self.way(is_told).request(request.method, request.url);
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
        if is_told {
            builder = self.login.authorise(builder);
        }
        let enough = Duration::from_secs(uploaded / SLOWEST_BYTES_PER_SECOND);
        builder.timeout(self.timeout + enough)
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

fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

/// How long `Retry-After` asks to wait: seconds, or until a date.
pub fn asked_wait(text: &str) -> Option<Duration> {
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

/// The text of a response on one line, truncated if long.
pub fn one_line(bytes: &[u8]) -> String {
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
    use crate::login::Access;

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
    fn our_own_certificate_goes_where_the_login_goes() {
        let url = |text: &str| Url::parse(text).unwrap();
        let login = Login::new(url("http://tracking:5000"), Access::Anybody);
        let login = login.also_for(vec![url("https://files:8443")]);
        // Of nobody, made for this test.
        let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/own.pem");
        let trust = Trust {
            identity: Some(pem.into()),
            ..Trust::default()
        };
        let client = Client::open(login, &trust, Duration::from_secs(1), "").unwrap();
        let shows = |address: &str, is_anonymous: bool| {
            let request = Request {
                is_anonymous,
                ..Request::get(url(address))
            };
            let way = client.way(client.is_told(&request));
            std::ptr::eq(way, &client.client)
        };
        for own in ["http://tracking:5000/api", "https://files:8443/api"] {
            assert!(shows(own, false) && !shows(own, true), "{own}");
            assert!(!client.withholds(&url(own)), "{own}");
        }
        for other in [
            "https://tracking:5000",
            "https://files",
            "https://x.files:8443",
        ] {
            assert!(!shows(other, false), "{other}");
            assert!(client.withholds(&url(other)), "{other}");
        }
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
