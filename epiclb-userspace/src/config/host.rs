//! The facts of a machine that the rules need.

use std::{collections::BTreeSet, io, net::IpAddr};

use nix::{ifaddrs::getifaddrs, net::if_::if_nameindex};

/// What is known of the machine the configuration is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its host name, the default of `name`.
    pub name: Option<String>,
    /// Every network interface, `lo` included.
    pub interfaces: BTreeSet<String>,
    /// Every address on them.
    pub addresses: BTreeSet<IpAddr>,
}

impl Host {
    /// Asks this machine (and the network namespace the caller is in).
    ///
    /// # Errors
    /// When the kernel can't list interfaces or addresses.
    pub fn from_system() -> io::Result<Self> {
        let interfaces = if_nameindex()?;
        let interfaces = interfaces.iter().map(|interface| interface.name().to_string_lossy().into_owned());
        let addresses = getifaddrs()?.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
            v4.or(address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
        });
        // The kernel's own file: gethostname(2) reads the same, and is not worth an unsafe call.
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        Ok(Self { name, interfaces: interfaces.collect(), addresses: addresses.collect() })
    }
}
