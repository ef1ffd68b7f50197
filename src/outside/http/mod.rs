//! Requests to a server over HTTP: one client with a login that only its own origin is told of, and waits between
//! tries. Nothing else knows reqwest.

mod client;
mod login;
mod retry;
mod tls;

pub use client::{Answer, Body, Client, ErrorAnswer, Failure, Request, one_line};
pub use login::{Access, Login};
pub use reqwest::{Method, Url};
pub use retry::BackOff;
pub use tls::Trust;
