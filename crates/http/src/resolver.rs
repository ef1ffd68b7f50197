//! Host name resolution. reqwest's own resolver panics if no thread can be started; this one returns an error.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use ctseg_base::limits::spawn::spawn;

/// Resolves with the system resolver, one thread per name.
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = Arc::new(Mutex::new(Lookup::default()));
        let shared = Arc::clone(&lookup);
        let name = name.as_str().to_owned();
        let resolve = move || {
            // The caller sets the port.
            let found = (name.as_str(), 0).to_socket_addrs();
            let mut lookup = shared.lock().unwrap_or_else(PoisonError::into_inner);
            lookup.found = Some(found.map(Iterator::collect));
            if let Some(waker) = lookup.waker.take() {
                waker.wake();
            }
        };
        match spawn("resolver", resolve) {
            Ok(_) => Box::pin(PendingLookup(lookup)),
            Err(error) => Box::pin(std::future::ready(Err(error.into()))),
        }
    }
}

#[derive(Default)]
struct Lookup {
    found: Option<io::Result<Vec<SocketAddr>>>,
    waker: Option<Waker>,
}

struct PendingLookup(Arc<Mutex<Lookup>>);

impl Future for PendingLookup {
    type Output = Result<Addrs, Box<dyn std::error::Error + Send + Sync>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut lookup = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match lookup.found.take() {
            Some(found) => Poll::Ready(match found {
                Ok(addresses) => Ok(Box::new(addresses.into_iter())),
                Err(error) => Err(error.into()),
            }),
            None => {
                lookup.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;
    use std::task::Wake;
    use std::thread::Thread;

    use super::*;

    struct Unparks(Thread);

    impl Wake for Unparks {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Resolves on this thread.
    fn resolved(name: &str) -> Result<Vec<SocketAddr>, String> {
        let mut pending = SystemResolver.resolve(Name::from_str(name).unwrap());
        let waker = Waker::from(Arc::new(Unparks(std::thread::current())));
        loop {
            match pending.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(found) => {
                    return found
                        .map(Iterator::collect)
                        .map_err(|error| error.to_string());
                }
                Poll::Pending => std::thread::park(),
            }
        }
    }

    #[test]
    fn names_become_addresses_or_errors() {
        let found = resolved("localhost").unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback()));
        assert!(resolved("no-such-host.invalid").is_err());
    }
}
