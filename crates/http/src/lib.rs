//! Requests to a server over HTTP: one client with a login that only its own origin is told of, and waits between
//! tries. Nothing else knows reqwest.

mod client;
pub mod login;
mod retry;
pub mod tls;

pub use crate::client::{Answer, Body, Client, ErrorAnswer, Failure, Request, one_line};
pub use crate::login::{Access, Login};
pub use crate::retry::BackOff;
pub use crate::tls::Trust;
pub use reqwest::{Method, Url};
