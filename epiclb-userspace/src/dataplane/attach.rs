//! The program on its interfaces: by `bpf_link` only, never detached to change something.
//!
//! A detach of a few milliseconds lets the host's own stack see packets of open flows. And aya falls back to a netlink
//! attachment without a word where `bpf_link` is refused; such a one could neither be pinned nor replaced atomically,
//! and would outlive a crash, so it is refused here.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use aya::programs::{
    Xdp, XdpMode as AyaMode,
    links::{FdLink, PinnedLink},
    loaded_programs,
    xdp::XdpLink,
};
use thiserror::Error;

use super::{
    bpf::{Bpf, PROGRAM, layout_dir},
    table::link_interface,
};
use crate::model::XdpMode;

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's receive path.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// A program on an interface. Dropping it leaves it there only if the link is pinned.
#[derive(Debug)]
pub struct Attached {
    /// How it runs.
    pub mode: Mode,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Held(#[expect(dead_code, reason = "held for its Drop, which detaches")] FdLink),
    Pinned(PinnedLink),
}

/// Why the program could not be attached.
#[derive(Debug, Error)]
pub enum AttachError {
    /// Another program is there.
    #[error(
        "interface {interface} already runs another XDP program ({foreign}); epiclb does not replace what is not its \
         own. Remove it (`ip link set dev {interface} xdp off`, or stop the software that owns it) and start again"
    )]
    Foreign {
        /// Name of the interface.
        interface: String,
        /// What is known of the program.
        foreign: String,
    },
    /// The kernel can't do it by `bpf_link`.
    #[error(
        "interface {0} takes XDP programs only by netlink, which could not be replaced without a gap (kernel older than 5.9?)"
    )]
    NoLink(String),
    /// The kernel's reason.
    #[error("interface {interface}: the kernel refuses {mode} XDP: {source}")]
    Refused {
        /// Name of the interface.
        interface: String,
        /// The mode tried last.
        mode: Mode,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The link can't be pinned.
    #[error("pinning the XDP link of {interface}: {source}")]
    Pin {
        /// Name of the interface.
        interface: String,
        /// The reason.
        source: io::Error,
    },
}

impl Bpf {
    /// Attaches the program to an interface, or, where a link of an earlier run is pinned, replaces the program
    /// behind it in one step. `present` is the XDP program that the interface runs now, with its mode.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(
        &mut self,
        interface: &str,
        ifindex: u32,
        mode: XdpMode,
        present: Option<(u32, Mode)>,
        pins: Option<&Path>,
    ) -> Result<Attached, AttachError> {
        let pin = pins.map(|dir| layout_dir(dir).join(format!("link_{interface}")));
        let program: &mut Xdp = self
            .ebpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .expect("Bpf::load has found and loaded it");
        if let Some((id, mode)) = present {
            return match &pin {
                Some(path) if path.exists() => adopt(program, interface, ifindex, path, mode),
                _ => Err(AttachError::Foreign { interface: interface.to_owned(), foreign: describe(id) }),
            };
        }
        if let Some(path) = &pin {
            // The link of an interface that is gone, or that someone detached.
            let _ = fs::remove_file(path);
        }
        let modes: &[Mode] = match mode {
            XdpMode::Auto => &[Mode::Native, Mode::Generic],
            XdpMode::Native => &[Mode::Native],
            XdpMode::Generic => &[Mode::Generic],
        };
        let mut last = None;
        for &mode in modes {
            match create(program, interface, ifindex, mode) {
                Ok(link) => return Ok(Attached { mode, link: hold(link, interface, pin)? }),
                Err(error @ AttachError::Refused { .. }) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.expect("at least one mode was tried"))
    }
}

/// What a person needs to find a program's owner.
fn describe(id: u32) -> String {
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned));
    match name {
        Some(name) => format!("id {id}, \"{name}\"; see `bpftool prog show id {id}`"),
        None => format!("id {id}"),
    }
}

impl Attached {
    /// Takes the program off the interface.
    ///
    /// # Errors
    /// The pin's removal.
    pub fn detach(self) -> io::Result<()> {
        match self.link {
            Link::Held(_) => Ok(()),
            Link::Pinned(link) => link.unpin().map(drop),
        }
    }
}

fn create(program: &mut Xdp, interface: &str, ifindex: u32, mode: Mode) -> Result<FdLink, AttachError> {
    let aya_mode = match mode {
        Mode::Native => AyaMode::Driver,
        Mode::Generic => AyaMode::Skb,
    };
    let refused = |source: io::Error| AttachError::Refused { interface: interface.to_owned(), mode, source };
    let id = program.attach_to_if_index(ifindex, aya_mode).map_err(|error| refused(os_error(error)))?;
    let link = program.take_link(id).map_err(|error| refused(io::Error::other(error)))?;
    // A netlink attachment does not convert; dropping it takes it off again.
    FdLink::try_from(link).map_err(|_| AttachError::NoLink(interface.to_owned()))
}

/// The kernel's error number, from wherever aya has wrapped it.
fn os_error(error: aya::programs::ProgramError) -> io::Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(code) = io.raw_os_error()
        {
            return io::Error::from_raw_os_error(code);
        }
        source = error.source();
    }
    io::Error::other(error)
}

fn hold(link: FdLink, interface: &str, pin: Option<PathBuf>) -> Result<Link, AttachError> {
    let Some(path) = pin else { return Ok(Link::Held(link)) };
    link.pin(&path)
        .map(Link::Pinned)
        .map_err(|error| AttachError::Pin { interface: interface.to_owned(), source: io::Error::other(error) })
}

/// Puts our program behind the link that an earlier run has pinned.
fn adopt(program: &mut Xdp, interface: &str, ifindex: u32, path: &Path, mode: Mode) -> Result<Attached, AttachError> {
    let other = |error: &dyn fmt::Display| AttachError::Pin {
        interface: interface.to_owned(),
        source: io::Error::other(error.to_string()),
    };
    let on = link_interface(path).map_err(|error| other(&error))?;
    if on != ifindex {
        return Err(AttachError::Foreign {
            interface: interface.to_owned(),
            foreign: format!("{} belongs to interface index {on}", path.display()),
        });
    }
    let link = FdLink::from(PinnedLink::from_pin(path).map_err(|error| other(&error))?);
    let link = XdpLink::try_from(link).map_err(|error| other(&error))?;
    let id = program.attach_to_link(link).map_err(|source| AttachError::Refused {
        interface: interface.to_owned(),
        mode,
        source: os_error(source),
    })?;
    // The pin holds the link; this handle of it is not needed.
    drop(program.take_link(id).map_err(|error| other(&error))?);
    let link = PinnedLink::from_pin(path).map_err(|error| other(&error))?;
    Ok(Attached { mode, link: Link::Pinned(link) })
}
