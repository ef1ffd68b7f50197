//! HTTP requests: a client whose login is sent only to the login's origins, and retry delays. The only crate that names
//! reqwest.

#![forbid(unsafe_code)]

mod client;
pub mod login;
mod resolver;
mod retry;
pub mod tls;

pub use client::{
    Body, Client, ErrorResponse, Failure, Request, Response, one_line, parse_retry_after,
};
pub use login::{Credentials, Login};
pub use reqwest::{Method, Url};
pub use retry::BackOff;
pub use tls::Trust;
