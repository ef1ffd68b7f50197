//! HTTP requests: a client whose login is sent only to the login's origins, and retry delays. The only crate that names
//! reqwest.

#![forbid(unsafe_code)]

mod client;
mod failure;
pub mod login;
mod resolver;
mod retry;
pub mod tls;

pub use client::{Body, Client, Request, Response, parse_retry_after};
pub use failure::{ConnectionProblem, ErrorResponse, Failure, one_line};
pub use login::{Credentials, Login};
pub use reqwest::{Method, Url};
pub use retry::BackOff;
pub use tls::Trust;
