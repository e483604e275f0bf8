//! Which RIP a new flow goes to, and from which SNAT port: flow, pin, ring, in this order.
//!
//! A bare SYN (or first UDP packet) writes only the small half-open table: nothing that a spoofed source can
//! reach holds a clinician's pin or flow.

use epiclb_common::{
    Addr, Flow, FlowKey, HalfOpen, Hop, Pin, PinKey, Rip, ServiceKey, Verdict, Vip,
    flow::{idle, join_ports, split_ports, state},
    hash::{client_hash, next_place, reduce, siphash},
    headers::Eth,
    verdict::Note,
    vip::LOCAL,
};

use crate::{
    forward::Way,
    maps::{self, Scratch},
    packet::Frame,
    parse::Packet,
};

/// How many SNAT ports are tried. With half of a RIP's ports in use, all fail once in 65,536 times.
const PORT_PROBES: u32 = 16;

/// A packet without a flow: opens one if it may.
#[inline(always)]
pub(crate) fn place(frame: &Frame, packet: &Packet) -> Result<Way<'static>, Verdict> {
    let key = &packet.key;
    let service = ServiceKey::new(key.dst, key.dst_port_be(), key.proto);
    let Some((vip_id, vip)) = maps::service(&service) else {
        return Err(match maps::is_ours(&key.dst) {
            false => Verdict::PassNotOurs,
            true if packet.is_tcp() && !packet.is_bare_syn() => Verdict::DropNoFlow,
            true => Verdict::DropNoService,
        });
    };
    if vip.flags & LOCAL != 0 {
        return Err(Verdict::PassRedirect);
    }
    if packet.is_tcp() && !packet.is_bare_syn() {
        return Err(Verdict::DropNoFlow);
    }
    if !is_client(&key.src) {
        return Err(Verdict::DropBadSource);
    }
    if packet.ttl <= 1 {
        return Err(Verdict::DropTtl);
    }
    let (rip_id, rip) = choose(vip_id, &vip, &key.src).ok_or(Verdict::DropNoRip)?;
    let hop = maps::hop(rip_id);
    if !hop.has(Hop::KNOWN | Hop::FLOWS) {
        return Err(Verdict::DropNoNeighbour);
    }
    let scratch = maps::scratch().ok_or(Verdict::DropInternal)?;
    let eth: &Eth = frame.at(0).ok_or(Verdict::DropInternal)?;
    scratch.there = Flow {
        hop: Hop::new(eth.src(), frame.ingress()).0,
        rip: rip_id,
        seen: (maps::boot_ns() / 1_000_000_000) as u32,
        ..Flow::default()
    };
    let (seq, _) = packet.seq_ack(frame)?;
    allocate(scratch, key, seq, &vip, &rip)?;
    if !packet.is_tcp() {
        scratch.half = HalfOpen { flow: scratch.there, client_next: 0, rip_next: 0 };
        maps::put_half_open(key, &scratch.half);
    }
    maps::rip_stats(rip_id, |stats| stats.attempts += 1);
    Ok(Way { flow: &scratch.there, hop, verdict: Verdict::ToRip })
}

/// A live pin whose RIP may take its clients, else the ring.
#[inline(always)]
fn choose(vip_id: u32, vip: &Vip, client: &Addr) -> Option<(u32, Rip)> {
    if vip.persistence_s != 0
        && let Some(pin) = maps::pin(&PinKey { group: vip.group, client: *client })
        && !pin.is_expired(maps::boot_ns(), vip.persistence_s)
        && maps::hop(pin.rip).has(Hop::PINNED)
        && let Some(rip) = maps::rip(pin.rip)
        // An id may have been given to another VIP's RIP since; the pin goes with the next sweep.
        && rip.group == vip.group
    {
        return Some((pin.rip, rip));
    }
    let rip_id = maps::ring(vip_id, client_hash(maps::seed(), client))?;
    Some((rip_id, maps::rip(rip_id)?))
}

/// Finds a SNAT address and port under which the RIP knows no other client, takes it for `key`, and completes
/// `scratch.there`, the entry for the way to the RIP.
///
/// The order in which ports are tried depends on the five-tuple and the SYN's sequence number alone, so a
/// retransmitted SYN finds its own entry, while a new connection from an old port gets a port of its own.
#[inline(always)]
fn allocate(scratch: &mut Scratch, key: &FlowKey, seq: u32, vip: &Vip, rip: &Rip) -> Result<(), Verdict> {
    let (_, vip_port) = split_ports(key.ports);
    let rip_port = if rip.port_be == 0 { vip_port } else { rip.port_be as u16 };
    let [low, high] = key.src.hash_words();
    let hash = siphash(maps::seed(), [low, high, u64::from(key.ports) | u64::from(seq) << 32]);
    let index = vip.snat_first + reduce(hash << 32, vip.snat_count);
    let snat = maps::snat(index).ok_or(Verdict::DropInternal)?;
    let answer = &mut scratch.answer;
    *answer = FlowKey { src: rip.addr, dst: snat.addr, ports: 0, proto: key.proto };
    let half = &mut scratch.half;
    half.client_next = seq.wrapping_add(1);
    half.rip_next = 0;
    let mut place = hash;
    let mut found = None;
    for _ in 0..PORT_PROBES {
        let port = (snat.first + reduce(place, snat.count)) as u16;
        answer.ports = join_ports(rip_port, port.to_be());
        found = claim(answer, key, half.client_next, scratch.there.seen);
        if found.is_some() {
            break;
        }
        place = next_place(place);
    }
    let claim = found.ok_or(Verdict::DropSnatPorts)?;
    half.flow = scratch.there;
    half.flow.rewrite(answer, key, true);
    half.flow.state = state::TO_CLIENT;
    match claim {
        // Also where another CPU has found the same port free: the client sends its SYN again.
        Claim::Free => maps::add_half_open(answer, half).map_err(|_| Verdict::DropTableBusy)?,
        Claim::Held(held) => *held = *half,
    }
    scratch.there.rewrite(key, answer, true);
    Ok(())
}

/// A port that may be used.
enum Claim {
    /// Nobody has it.
    Free,
    /// This very handshake has it, sent again, or one so old that it gives way.
    Held(&'static mut HalfOpen),
}

/// Whether the RIP's answers under `answer` would be ours.
#[inline(always)]
fn claim(answer: &FlowKey, key: &FlowKey, client_next: u32, now: u32) -> Option<Claim> {
    if maps::flow(answer).is_some() {
        return None;
    }
    let Some(held) = maps::half_open(answer) else { return Some(Claim::Free) };
    let own = held.client_next == client_next && held.flow.other_key(answer.proto) == *key;
    let stale = now.saturating_sub(held.flow.seen) > idle::HALF_OPEN;
    (own || stale).then_some(Claim::Held(held))
}

/// Whether an address can be a client's: unicast, not loopback or unspecified (RFC 6890), and none of our own.
#[inline(always)]
fn is_client(addr: &Addr) -> bool {
    let w = &addr.words;
    let odd = if addr.is_v4() {
        let first = u32::from_be(w[3]) >> 24;
        first == 0 || first == 127 || first >= 224
    } else {
        let multicast = u32::from_be(w[0]) >> 24 == 0xff;
        let unspecified_or_loopback = w[0] == 0 && w[1] == 0 && w[2] == 0 && u32::from_be(w[3]) <= 1;
        multicast || unspecified_or_loopback
    };
    !odd && !maps::is_ours(addr)
}

/// Remembers where a client belongs, once it has proved that it is there.
#[inline(always)]
pub(crate) fn remember(client: &Addr, rip_id: u32, rip: &Rip, verified: bool) {
    if rip.persistence_s == 0 {
        return;
    }
    let key = PinKey { group: rip.group, client: *client };
    let seen = maps::boot_ns();
    match maps::pin(&key) {
        Some(pin) => {
            if pin.rip != rip_id {
                maps::note(Note::PinMoved);
                pin.rip = rip_id;
                pin.since = (seen / 1_000_000_000) as u32;
            }
            pin.seen = seen;
        }
        None => {
            let pin = Pin { seen, rip: rip_id, since: (seen / 1_000_000_000) as u32 };
            maps::add_pin(&key, &pin, verified);
        }
    }
}
