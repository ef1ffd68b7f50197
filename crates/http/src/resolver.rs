//! Names to addresses. reqwest's own resolver panics where no thread can be started; this one makes an error of it.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use ctseg_base::limits::spawn::spawn;

/// Asks the system, on a thread for each name.
pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let answer = Arc::new(Mutex::new(Answer::default()));
        let given = Arc::clone(&answer);
        let name = name.as_str().to_owned();
        let asks = move || {
            // The port is set by who connects.
            let found = (name.as_str(), 0).to_socket_addrs();
            let mut answer = given.lock().unwrap_or_else(PoisonError::into_inner);
            answer.found = Some(found.map(Iterator::collect));
            if let Some(waker) = answer.waker.take() {
                waker.wake();
            }
        };
        match spawn("resolver", asks) {
            Ok(_) => Box::pin(Awaited(answer)),
            Err(error) => Box::pin(std::future::ready(Err(error.into()))),
        }
    }
}

#[derive(Default)]
struct Answer {
    found: Option<io::Result<Vec<SocketAddr>>>,
    waker: Option<Waker>,
}

struct Awaited(Arc<Mutex<Answer>>);

impl Future for Awaited {
    type Output = Result<Addrs, Box<dyn std::error::Error + Send + Sync>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answer.found.take() {
            Some(found) => Poll::Ready(match found {
                Ok(addresses) => Ok(Box::new(addresses.into_iter())),
                Err(error) => Err(error.into()),
            }),
            None => {
                answer.waker = Some(context.waker().clone());
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

    /// Waits for the answer on this thread.
    fn resolved(name: &str) -> Result<Vec<SocketAddr>, String> {
        let mut asked = SystemResolver.resolve(Name::from_str(name).unwrap());
        let waker = Waker::from(Arc::new(Unparks(std::thread::current())));
        loop {
            match asked.as_mut().poll(&mut Context::from_waker(&waker)) {
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
