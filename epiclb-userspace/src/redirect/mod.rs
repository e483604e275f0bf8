//! The port-80 responder: sends browsers from `http://` to `https://`.
//!
//! Owns: what is answered to which request ([`http`], no I/O), one listening socket and its connections
//! ([`server`]), and the set of sockets the configuration asks for ([`set`]). Deliberately knows nothing of the
//! data path: it relies on others to let port 80 of a redirect VIP reach the host.

pub mod http;
pub mod server;
pub mod set;

pub use set::RedirectSet;
