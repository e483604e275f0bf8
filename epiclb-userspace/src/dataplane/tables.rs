//! The data path's tables as plain values: what is in the kernel, or what should be.

use std::collections::{BTreeMap, BTreeSet};

use epiclb_common::{Addr, Hop, Rip, ServiceKey, Snat, Vip};

/// Everything the XDP program is told, but for the rings: those show as a digest in their [`Vip::ring`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Default-deny addresses: VIPs and SNAT addresses of our own.
    pub addresses: BTreeSet<Addr>,
    /// SNAT addresses by index.
    pub snats: BTreeMap<u32, Snat>,
    /// RIPs by id.
    pub rips: BTreeMap<u32, Rip>,
    /// Hops by RIP id; those that are zero are left out.
    pub hops: BTreeMap<u32, Hop>,
    /// VIPs by id.
    pub vips: BTreeMap<u32, Vip>,
    /// Services: which VIP answers at an address, port and protocol.
    pub services: BTreeMap<ServiceKey, u32>,
}
