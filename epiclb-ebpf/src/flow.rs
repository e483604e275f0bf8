//! Flows: what a packet does to the connection it belongs to.
//!
//! TCP: half-open (SYN seen, SYN-ACK seen) until the client's ACK fits, then open, closing, closed. UDP: half-open
//! until the client goes on after an answer, then open. Both directions' entries are made together, and removed
//! together by the daemon's sweeper.

use epiclb_common::{
    Flow, FlowKey, HalfOpen, Hop, PinKey, Verdict,
    flow::{idle, state},
    headers::{Eth, tcp},
};

use crate::{
    balance,
    forward::Way,
    maps::{self, Scratch},
    packet::Frame,
    parse::Packet,
};

/// How far an ACK's sequence number may lie ahead of the handshake's: a first flight whose pure ACK was lost.
const FIRST_FLIGHT: u32 = 1 << 16;

/// -E2BIG and -EEXIST (include/uapi/asm-generic/errno-base.h): no room, and the key is taken.
const E2BIG: i32 = -7;
const EEXIST: i32 = -17;

/// What is to be done with a packet.
pub(crate) enum Step<'a> {
    /// Rewrite it and send it on.
    Go(Way<'a>),
    /// It belongs to no flow: find it a RIP, if it may have one.
    Place,
    /// Its flow ends here: a RST for the client where a flow is given, else for whoever sent the packet.
    Reset(Option<&'a Flow>),
}

impl<'a> Step<'a> {
    #[inline(always)]
    fn to_rip(flow: &'a Flow, hop: Hop) -> Result<Self, Verdict> {
        if !hop.has(Hop::KNOWN) {
            return Err(Verdict::DropNoNeighbour);
        }
        Ok(Self::Go(Way { flow, hop, verdict: Verdict::ToRip }))
    }

    #[inline(always)]
    fn to_client(flow: &'a Flow) -> Result<Self, Verdict> {
        Ok(Self::Go(Way { flow, hop: Hop(flow.hop), verdict: Verdict::ToClient }))
    }
}

/// A packet of an open flow.
#[inline(always)]
pub(crate) fn open<'a>(frame: &Frame, packet: &Packet, flow: &'a mut Flow) -> Result<Step<'a>, Verdict> {
    let from_rip = flow.state & state::TO_CLIENT != 0;
    let rip_hop = maps::hop(flow.rip);
    // Every bare SYN asks again whether the RIP may take it: the client has forgotten the old connection. UDP knows no
    // SYN, and no RST by which a halt or a death could make the client start afresh.
    let afresh = if packet.is_tcp() {
        packet.is_bare_syn() && (flow.is_closed() || !rip_hop.has(Hop::PINNED))
    } else {
        !rip_hop.has(Hop::FLOWS | Hop::UP)
    };
    if !from_rip && afresh {
        maps::remove_flow(&flow.other_key(packet.key.proto));
        maps::remove_flow(&packet.key);
        return Ok(Step::Place);
    }
    if !rip_hop.has(Hop::FLOWS) {
        // The side that speaks first may be the RIP, with a client that waits: the client is told either way.
        let told = flow.state & state::RESET != 0;
        flow.seen = (maps::boot_ns() / 1_000_000_000) as u32;
        mark(flow, &packet.key, state::RESET);
        return Ok(Step::Reset(if from_rip && !told { Some(flow) } else { None }));
    }
    if packet.ttl <= 1 {
        return Err(Verdict::DropTtl);
    }
    if flow.state & state::RESET != 0 && packet.flags & (tcp::RST | tcp::SYN) == 0 {
        revive(flow, &packet.key, from_rip);
    }
    let second = maps::coarse_second();
    if flow.stamp != second {
        refresh(frame, packet, flow, second);
    }
    if packet.flags & (tcp::FIN | tcp::RST) != 0 {
        close(packet, flow, from_rip);
    }
    if from_rip { Step::to_client(flow) } else { Step::to_rip(flow, rip_hop) }
}

/// Once a second and flow: its time stamp, the pin's, and the way back to the client.
#[inline(always)]
fn refresh(frame: &Frame, packet: &Packet, flow: &mut Flow, second: u32) {
    let now = maps::boot_ns();
    flow.stamp = second;
    flow.seen = (now / 1_000_000_000) as u32;
    if flow.state & state::TO_CLIENT != 0 {
        return;
    }
    if let Some(rip) = maps::rip(flow.rip)
        && rip.persistence_s != 0
        && let Some(pin) = maps::pin(&PinKey { group: rip.group, client: packet.key.src })
        // A client with many flows writes once a second for all of them.
        && now.saturating_sub(pin.seen) >> 30 != 0
    {
        // Also where it has moved on to another RIP: its time is that of its last packet.
        pin.seen = now;
    }
    if let Some(eth) = frame.at::<Eth>(0) {
        let from = Hop::new(eth.src(), frame.ingress()).0;
        if flow.hop != from {
            flow.hop = from;
            if let Some(other) = maps::flow(&flow.other_key(packet.key.proto)) {
                other.hop = from;
            }
        }
    }
}

/// Notes a FIN or RST in both entries.
#[inline(always)]
fn close(packet: &Packet, flow: &mut Flow, from_rip: bool) {
    let bits = if packet.flags & tcp::RST != 0 {
        reset_by(from_rip)
    } else if !from_rip {
        state::CLIENT_FIN
    } else if flow.state & state::CLIENT_FIN == 0 {
        state::RIP_FIN | state::RIP_FIRST
    } else {
        state::RIP_FIN
    };
    mark(flow, &packet.key, bits);
}

#[inline(always)]
fn reset_by(rip: bool) -> u32 {
    if rip { state::RIP_RESET } else { state::CLIENT_RESET }
}

/// Whoever goes on talking did not send the RST that seemed to come from it (RFC 5961, 3: anyone may guess one).
#[inline(always)]
fn revive(flow: &mut Flow, key: &FlowKey, from_rip: bool) {
    let bit = reset_by(from_rip);
    if flow.state & bit != 0 {
        flow.state &= !bit;
        if let Some(other) = maps::flow(&flow.other_key(key.proto)) {
            other.state &= !bit;
        }
    }
}

#[inline(always)]
fn mark(flow: &mut Flow, key: &FlowKey, bits: u32) {
    if flow.state & bits == bits {
        return;
    }
    flow.state |= bits;
    if let Some(other) = maps::flow(&flow.other_key(key.proto)) {
        other.state |= bits;
    }
}

/// A packet of a handshake under way.
#[inline(always)]
pub(crate) fn half_open<'a>(frame: &Frame, packet: &Packet, half: &'a mut HalfOpen) -> Result<Step<'a>, Verdict> {
    let (seq, ack) = packet.seq_ack(frame)?;
    let scratch = maps::scratch().ok_or(Verdict::DropInternal)?;
    if half.flow.state & state::TO_CLIENT != 0 {
        answer(packet, half, scratch, seq)
    } else {
        go_on(packet, half, scratch, seq, ack)
    }
}

/// The RIP's answer.
#[inline(always)]
fn answer<'a>(packet: &Packet, half: &HalfOpen, scratch: &'a mut Scratch, seq: u32) -> Result<Step<'a>, Verdict> {
    if !maps::hop(half.flow.rip).has(Hop::FLOWS) {
        return Err(Verdict::DropHalted);
    }
    if packet.ttl <= 1 {
        return Err(Verdict::DropTtl);
    }
    // A copy, since what follows may free the entry.
    scratch.there = half.flow;
    scratch.answer = half.flow.other_key(packet.key.proto);
    let client = &scratch.answer;
    if packet.flags & tcp::RST != 0 {
        maps::remove_half_open(client);
        maps::remove_half_open(&packet.key);
        return Step::to_client(&scratch.there);
    }
    // Anything but a SYN-ACK (a challenge ACK, say) reaches the client, but proves nothing.
    let proof = !packet.is_tcp() || packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK;
    if proof || maps::half_open(client).is_none() {
        let there = &mut scratch.half.flow;
        there.rewrite(client, &packet.key, true);
        there.hop = half.flow.hop;
        there.rip = half.flow.rip;
        there.seen = half.flow.seen;
        there.stamp = 0;
        there.state = if proof { state::ANSWERED } else { 0 };
        scratch.half.client_next = half.client_next;
        scratch.half.rip_next = seq.wrapping_add(1);
        maps::put_half_open(client, &scratch.half);
    }
    Step::to_client(&scratch.there)
}

/// The client's next packet.
#[inline(always)]
fn go_on<'a>(
    packet: &Packet,
    half: &mut HalfOpen,
    scratch: &'a mut Scratch,
    seq: u32,
    ack: u32,
) -> Result<Step<'a>, Verdict> {
    let hop = maps::hop(half.flow.rip);
    let now = (maps::boot_ns() / 1_000_000_000) as u32;
    let stale = now.saturating_sub(half.flow.seen) > idle::HALF_OPEN;
    let other_syn = packet.is_bare_syn() && seq.wrapping_add(1) != half.client_next;
    let reset = packet.flags & tcp::RST != 0;
    scratch.answer = half.flow.other_key(packet.key.proto);
    scratch.there = half.flow;
    let halted = !hop.has(Hop::FLOWS);
    if reset || stale || other_syn || halted {
        maps::remove_half_open(&scratch.answer);
        maps::remove_half_open(&packet.key);
        return if reset {
            Step::to_rip(&scratch.there, hop)
        } else if halted && packet.is_tcp() && !packet.is_bare_syn() {
            // The client has seen the SYN-ACK and takes itself for connected.
            Ok(Step::Reset(None))
        } else {
            Ok(Step::Place)
        };
    }
    if packet.ttl <= 1 {
        return Err(Verdict::DropTtl);
    }
    let answered = half.flow.state & state::ANSWERED != 0;
    if packet.is_tcp() && !packet.is_bare_syn() {
        let fits = answered
            && packet.flags & tcp::ACK != 0
            && ack == half.rip_next
            && seq.wrapping_sub(half.client_next) < FIRST_FLIGHT;
        if !fits {
            return Err(Verdict::DropUnverified);
        }
        promote(packet, scratch, now)?;
    } else if !packet.is_tcp() {
        half.flow.seen = now;
        if answered {
            promote(packet, scratch, now)?;
        } else {
            // Both entries are one handshake: the other one is as fresh, unless a flood of them has pushed it out.
            match maps::half_open(&scratch.answer) {
                Some(other) if other.flow.other_key(packet.key.proto) == packet.key => other.flow.seen = now,
                _ => {
                    maps::remove_half_open(&packet.key);
                    return Ok(Step::Place);
                }
            }
        }
    }
    Step::to_rip(&scratch.there, hop)
}

/// Makes the half-open flow of `scratch.there` an open one, and pins its client.
#[inline(always)]
fn promote(packet: &Packet, scratch: &mut Scratch, now: u32) -> Result<(), Verdict> {
    let key = &packet.key;
    let answer = &scratch.answer;
    let there = &mut scratch.there;
    there.seen = now;
    there.stamp = maps::coarse_second();
    there.state = if packet.flags & tcp::FIN != 0 { state::CLIENT_FIN } else { 0 };
    let back = &mut scratch.half.flow;
    back.rewrite(answer, key, true);
    back.hop = there.hop;
    back.rip = there.rip;
    back.state = there.state | state::TO_CLIENT;
    back.seen = now;
    back.stamp = there.stamp;
    match maps::add_flow(answer, back) {
        Ok(()) => {}
        // Another CPU may be doing the same for a second ACK; anything else holds our port.
        Err(EEXIST) => match maps::flow(answer) {
            Some(held) if held.dst == back.dst && held.ports == back.ports => {}
            _ => return Err(Verdict::DropSnatPorts),
        },
        Err(error) => return Err(not_added(error)),
    }
    match maps::add_flow(key, there) {
        Ok(()) => {
            let rip = maps::rip(there.rip).ok_or(Verdict::DropInternal)?;
            maps::rip_stats(there.rip, |stats| stats.connections += 1);
            balance::remember(&key.src, there.rip, &rip, packet.is_tcp());
        }
        Err(EEXIST) => {}
        Err(error) => {
            maps::remove_flow(answer);
            return Err(not_added(error));
        }
    }
    maps::remove_half_open(answer);
    maps::remove_half_open(key);
    Ok(())
}

#[inline(always)]
fn not_added(error: i32) -> Verdict {
    if error == E2BIG { Verdict::DropFlowTableFull } else { Verdict::DropTableBusy }
}
