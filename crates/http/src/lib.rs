//! Requests to a server over HTTP: one client with a login that only its own origins are told of, and waits between
//! tries. Nothing else knows reqwest.

#![forbid(unsafe_code)]

mod client;
pub mod login;
mod resolver;
mod retry;
pub mod tls;

pub use client::{Answer, Body, Client, ErrorAnswer, Failure, Request, asked_wait, one_line};
pub use login::{Access, Login};
pub use reqwest::{Method, Url};
pub use retry::BackOff;
pub use tls::Trust;
