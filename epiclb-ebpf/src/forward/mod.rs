//! The only writers of packet bytes: a file for each forwarding mode, and the TCP reset.

mod reset;
mod snat;

use epiclb_common::{Flow, Hop, Verdict};

pub(crate) use self::reset::reset;
use crate::{maps, packet::Frame, parse::Packet};

/// How a packet goes on.
pub(crate) struct Way<'a> {
    /// What to make of it.
    pub(crate) flow: &'a Flow,
    /// Where it goes.
    pub(crate) hop: Hop,
    /// What it counts as.
    pub(crate) verdict: Verdict,
}

/// A packet on its way: the verdict it is counted under and the interface it leaves by.
pub(crate) struct Sent {
    pub(crate) verdict: Verdict,
    pub(crate) ifindex: u32,
}

/// Rewrites the packet and counts it for its RIP.
#[inline(always)]
pub(crate) fn send(frame: &Frame, packet: &Packet, way: &Way) -> Result<Sent, Verdict> {
    let Way { flow, hop, verdict } = way;
    snat::rewrite(frame, packet, flow, *hop)?;
    maps::rip_stats(flow.rip, |stats| {
        if matches!(verdict, Verdict::ToRip) {
            stats.packets_in += 1;
            stats.bytes_in += frame.len();
        } else {
            stats.packets_out += 1;
            stats.bytes_out += frame.len();
        }
    });
    Ok(Sent { verdict: *verdict, ifindex: hop.ifindex() })
}

/// The MAC that frames leave `ifindex` with.
#[inline(always)]
fn source_mac(frame: &Frame, packet: &Packet, ifindex: u32) -> Result<u64, Verdict> {
    if ifindex == frame.ingress() {
        return Ok(packet.own_mac);
    }
    match maps::interface(ifindex) {
        0 => Err(Verdict::DropNoNeighbour),
        mac => Ok(mac),
    }
}
