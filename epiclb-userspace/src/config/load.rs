//! Reading the two files; the only part of the loader that touches a disk.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use super::{Host, Input, Loaded, Report, Unreadable, resolve};

/// A file beyond this size is refused unread: the largest valid configuration is far below it.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// Where the two files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `node.toml`: what belongs to this machine.
    pub node: PathBuf,
    /// `services.toml`: what a peer shares.
    pub services: PathBuf,
}

impl Files {
    /// Both files of a folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self { node: folder.join("node.toml"), services: folder.join("services.toml") }
    }
}

/// Reads both files of a folder; see [`super::parse`].
///
/// # Errors
/// Every problem of both files; a file that can't be read is one of them and does not hide the other's.
pub fn load(folder: &Path, host: Option<&Host>) -> Result<Loaded, Report> {
    let Files { node, services } = Files::in_folder(folder);
    resolve(read(node), read(services), host)
}

fn read(path: PathBuf) -> Input {
    let content = read_bytes(&path);
    Input { path, content }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Unreadable> {
    // Asked before opening, because opening a named pipe waits for a writer.
    let metadata = fs::metadata(path).map_err(|error| describe(path, &error))?;
    if metadata.is_dir() {
        return Err(refuse(
            "is a folder, not a file",
            "--config takes the folder that holds node.toml and services.toml",
        ));
    }
    if !metadata.is_file() {
        return Err(refuse("is not a regular file", "put a plain text file here"));
    }
    let file = fs::File::open(path).map_err(|error| describe(path, &error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| describe(path, &error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let size = metadata.len().max(bytes.len() as u64);
        let message = format!("has {size} bytes; a configuration file may have {MAX_FILE_BYTES} (4 MiB)");
        return Err(refuse(message, "is this the right file?"));
    }
    Ok(bytes)
}

fn describe(path: &Path, error: &io::Error) -> Unreadable {
    let folder = path.parent().unwrap_or(Path::new("."));
    match error.kind() {
        io::ErrorKind::NotFound if fs::symlink_metadata(path).is_ok() => {
            refuse("is a link to a file that does not exist", "mend the link or put a file in its place")
        }
        io::ErrorKind::NotFound if !folder.is_dir() => refuse(
            format!("does not exist, nor does the folder {}", folder.display()),
            "--config DIR names the folder; `epiclb init` writes an example",
        ),
        io::ErrorKind::NotFound => {
            refuse("does not exist", "`epiclb init` writes an example; --config DIR names another folder")
        }
        io::ErrorKind::PermissionDenied => {
            refuse("may not be read by this user", "run this as root, or allow reading it")
        }
        _ if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            refuse("is a link that leads back to itself", "put a file in its place")
        }
        _ => refuse(format!("could not be read: {error}"), "look at the disk (dmesg) and at the path"),
    }
}

fn refuse(message: impl Into<String>, help: impl Into<String>) -> Unreadable {
    Unreadable { message: message.into(), help: help.into(), position: None }
}
