//! A program that lets every frame pass, for the far end of the balancer's cable, and for a stranger's.
//!
//! veth delivers what native XDP_TX sends only if the peer has an XDP program too (`veth_xdp_xmit`,
//! drivers/net/veth.c). Two instructions need no compiler and no ELF file.

use std::{
    ffi::{CString, c_int, c_long},
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result};

use crate::host::Host;

/// The program on one interface; gone when dropped, or when the process dies.
#[derive(Debug)]
pub struct XdpPass {
    _link: OwnedFd,
}

impl XdpPass {
    /// Attaches to `interface` of `host`, in the driver.
    pub(crate) fn attach(host: &Host, interface: &str) -> Result<Self> {
        let link = host.within(|| -> Result<OwnedFd> {
            let index = nix::net::if_::if_nametoindex(interface)?;
            Ok(create_link(&load()?, index)?)
        });
        Ok(Self { _link: link.with_context(|| format!("cannot put XDP_PASS on {interface} of {}", host.name()))? })
    }
}

/// Puts a program on `interface` that is not epiclb's, as other software would (named `lab_pass`).
pub fn foreign_program(host: &Host, interface: &str) -> Result<XdpPass> {
    XdpPass::attach(host, interface)
}

// linux/bpf.h, linux/if_link.h
const BPF_PROG_LOAD: c_int = 5;
const BPF_LINK_CREATE: c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
/// `r0 = XDP_PASS; exit`
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The head of `union bpf_attr` for BPF_PROG_LOAD, up to `expected_attach_type`.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The head of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn load() -> io::Result<OwnedFd> {
    let license = CString::new("GPL").expect("no NUL inside");
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: PASS.len() as u32,
        insns: PASS.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: BPF_XDP,
        ..ProgLoad::default()
    };
    attr.prog_name[..8].copy_from_slice(b"lab_pass");
    bpf(BPF_PROG_LOAD, &attr)
}

fn create_link(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    bpf(BPF_LINK_CREATE, &attr)
}

/// bpf(2) for the two commands above, both of which return a new file descriptor.
fn bpf<T>(command: c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is a live, fully initialised #[repr(C)] struct without padding, and its true size is passed; the
    // kernel reads it, and the buffers it points to outlive the call.
    let fd: c_long =
        unsafe { libc::syscall(libc::SYS_bpf, c_long::from(command), std::ptr::from_ref(attr), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
