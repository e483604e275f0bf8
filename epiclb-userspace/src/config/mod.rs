//! The two files an operator writes, read into [`Config`].
//!
//! `bytes -> text -> TOML with spans -> raw (what was typed) -> checked -> Config`. Every step keeps the place of what
//! it read, and no step stops at the first problem: the operator gets all of them at once, each with the line to look at
//! and what to type instead.
//!
//! Owns: the keys of `node.toml` and `services.toml`, their defaults, limits and rules, and the words of each complaint.
//! Deliberately does not know: what a valid configuration is used for. [`parse`] is pure; [`load`] and
//! [`Host::from_system`] are the only I/O.
//!
//! **Invariant:** a [`Config`] that leaves this module has passed every rule; nobody checks it again.

mod cross;
mod document;
mod example;
mod host;
mod load;
mod node;
mod problem;
mod raw;
mod services;
mod table;
mod text;
mod value;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::model::Config;
use document::Document;
use problem::{File, Problems};
use text::Text;

pub use example::{Profile, example};
pub use host::Host;
pub use load::{Files, MAX_FILE_BYTES, load};
pub use problem::{MAX_SHOWN, Problem, Report, Severity};

/// A configuration that passed every rule, and what is odd about it all the same.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the operator asked for.
    pub config: Config,
    /// Warnings only; often empty.
    pub warnings: Report,
}

/// One file's name and bytes.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the report calls it.
    pub path: PathBuf,
    /// Its content, not yet known to be text.
    pub bytes: Vec<u8>,
}

impl Source {
    /// A file's content under the name the report shall give it.
    pub fn new(path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), bytes: bytes.into() }
    }
}

/// Reads both files' content. Pure, and never panics, whatever the bytes.
///
/// `host` holds the facts of the machine the configuration is meant for; without it (`check` on another machine) the
/// rules that need them are skipped.
///
/// # Errors
/// Every problem of both files, warnings included, if at least one of them is an error.
pub fn parse(node: Source, services: Source, host: Option<&Host>) -> Result<Loaded, Report> {
    resolve(Input::from(node), Input::from(services), host)
}

/// A file's content, or why there is none.
struct Input {
    path: PathBuf,
    content: Result<Vec<u8>, Unreadable>,
}

/// Why a file is no text, and what to do about it.
struct Unreadable {
    message: String,
    help: String,
    /// Line and column, where a byte is to blame.
    position: Option<(usize, usize)>,
}

impl From<Source> for Input {
    fn from(source: Source) -> Self {
        Self { path: source.path, content: Ok(source.bytes) }
    }
}

fn resolve(node: Input, services: Input, host: Option<&Host>) -> Result<Loaded, Report> {
    let mut problems = Problems::default();
    let node_text = readable(File::Node, node, &mut problems);
    let services_text = readable(File::Services, services, &mut problems);
    let texts = [node_text, services_text];
    let [node_document, services_document] = &[File::Node, File::Services]
        .map(|file| texts[file as usize].content().map(|text| Document::parse(file, text, &mut problems)));

    let node = node_document
        .as_ref()
        .map(|document| node::check(raw::Node::read(document.root(), &mut problems), host, &mut problems));
    let services = services_document
        .as_ref()
        .map(|document| services::check(raw::Services::read(document.root(), &mut problems), &mut problems));
    cross::check(node.as_ref(), services.as_ref(), host, &mut problems);

    // Built only where nothing was refused, so a checked part that is missing always has an error that tells why.
    let damages = [node_document, services_document].map(|d| d.as_ref().map(|d| d.damage.clone()).unwrap_or_default());
    let config = match (problems.has_errors(), node, services) {
        (false, Some(node), Some(services)) => {
            node.build().zip(services.build()).map(|(node, services)| Config { node, services })
        }
        _ => None,
    };
    let report = problems.into_report(texts, &damages);
    match config {
        Some(config) => Ok(Loaded { config, warnings: report }),
        None => Err(report),
    }
}

/// The file as text; if it is none, a problem says what it is instead.
fn readable(file: File, input: Input, problems: &mut Problems) -> Text {
    let path = input.path.display().to_string();
    match input.content.and_then(document::decode) {
        Ok(text) => Text::new(path, text),
        Err(Unreadable { message, help, position }) => {
            problems.unreadable(file, position, format!("{} {message}", file.name())).help(help);
            Text::absent(path)
        }
    }
}
