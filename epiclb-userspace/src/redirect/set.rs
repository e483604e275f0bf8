//! The listening sockets that the configuration asks for.
//!
//! Owns: one [`Listener`] per redirect VIP and port, made equal to what is desired. Deliberately knows nothing of
//! VIPs: it is given sockets.

use std::{collections::BTreeMap, io, net::SocketAddr};

use super::server::{Counts, Listener};
use crate::model::Redirect;

/// The open listeners. Dropping it closes them.
#[derive(Debug, Default)]
pub struct RedirectSet {
    listeners: BTreeMap<SocketAddr, Listener>,
}

/// What one [`reconcile`](RedirectSet::reconcile) did.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Sockets that were opened.
    pub opened: Vec<SocketAddr>,
    /// Sockets that were closed.
    pub closed: Vec<SocketAddr>,
    /// Sockets that could not be opened; the next call tries again.
    pub failed: Vec<ListenError>,
}

/// Why a socket is not open.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// The socket.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

impl RedirectSet {
    /// Closes what is not in `desired`, then opens what is missing, in the calling thread's network namespace. A
    /// socket that is kept gets its new settings and keeps its connections and counters. One that fails leaves the
    /// others alone.
    pub async fn reconcile(&mut self, desired: &BTreeMap<SocketAddr, Redirect>) -> Reconciled {
        let mut done = Reconciled::default();
        for (address, listener) in std::mem::take(&mut self.listeners) {
            if desired.contains_key(&address) && listener.is_running() {
                self.listeners.insert(address, listener);
            } else {
                listener.close().await;
                done.closed.push(address);
            }
        }
        for (&address, redirect) in desired {
            if let Some(listener) = self.listeners.get(&address) {
                listener.configure(redirect);
                continue;
            }
            match Listener::open(address, redirect.clone()) {
                Ok(listener) => {
                    self.listeners.insert(address, listener);
                    done.opened.push(address);
                }
                Err(source) => done.failed.push(ListenError { address, source }),
            }
        }
        done
    }

    /// What each open listener has done.
    pub fn counts(&self) -> BTreeMap<SocketAddr, Counts> {
        self.listeners.iter().map(|(&address, listener)| (address, listener.counts())).collect()
    }
}

#[cfg(test)]
mod tests;
