//! epiclb's XDP program: pins each client to a RIP by source IP and forwards packets in the driver.
//!
//! A packet is parsed once, its flow or a RIP is chosen, it is rewritten, and it leaves under a [`Verdict`] with a
//! counter. The daemon only describes: everything here works on with the daemon gone.
//!
//! On a host target the same sources compile against a stub `main`, so that clippy and `cargo test` reach them.

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

mod balance;
mod flow;
mod forward;
mod maps;
mod packet;
mod parse;

use aya_ebpf::{
    bindings::{TC_ACT_OK, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use epiclb_common::{
    Action, Verdict,
    pin::touch::{self, Touch},
};

use crate::{flow::Step, forward::Sent, packet::Frame};

/// The XDP entry.
#[xdp]
fn epiclb_xdp(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    let len = frame.len();
    let (verdict, egress) = match run(&frame) {
        Ok(Sent { verdict, ifindex }) => (verdict, ifindex),
        Err(verdict) => (verdict, 0),
    };
    maps::count(verdict, len);
    match verdict.action() {
        Action::Pass => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Forward if egress == frame.ingress() => xdp_action::XDP_TX,
        Action::Forward => packet::redirect(egress),
    }
}

/// Run by the daemon, on no interface: moves the time stamps of the pins that the frame names.
#[classifier]
fn epiclb_touch(ctx: TcContext) -> i32 {
    for index in 0..touch::BATCH {
        let Ok(touch) = ctx.load::<Touch>(touch::HEADER + index * size_of::<Touch>()) else { break };
        // Never back in time: the client may have spoken since the daemon looked.
        if let Some(pin) = maps::pin(&touch.key)
            && pin.seen < touch.seen
        {
            pin.seen = touch.seen;
        }
    }
    TC_ACT_OK
}

/// Everything between the frame and its verdict.
#[inline(always)]
fn run(frame: &Frame) -> Result<Sent, Verdict> {
    let packet = parse::parse(frame)?;
    let step = match maps::flow(&packet.key) {
        Some(flow) => flow::open(frame, &packet, flow)?,
        None => match maps::half_open(&packet.key) {
            Some(half) => flow::half_open(frame, &packet, half)?,
            None => Step::Place,
        },
    };
    let way = match step {
        Step::Go(way) => way,
        Step::Place => balance::place(frame, &packet)?,
        Step::Reset(onward) => return forward::reset(frame, &packet, onward),
    };
    forward::send(frame, &packet, &way)
}

/// The kernel lends some helpers to GPL-compatible programs only. None of those is used yet; this is the string the
/// kernel knows (include/linux/license.h) for a program offered under MIT, as ours is.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier would refuse a program that can get here.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
