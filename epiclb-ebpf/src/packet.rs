//! The only pointer arithmetic: typed views of a frame, bounds-checked for the verifier.

use core::mem::size_of;

use aya_ebpf::{
    helpers::{bpf_redirect, bpf_xdp_adjust_tail},
    programs::XdpContext,
};

/// A frame as it came in.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// Bytes of the frame, Ethernet header included.
    #[inline(always)]
    pub(crate) fn len(&self) -> u64 {
        (self.ctx.data_end() - self.ctx.data()) as u64
    }

    /// The interface it came in on.
    #[inline(always)]
    pub(crate) fn ingress(&self) -> u32 {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { (*self.ctx.ctx).ingress_ifindex }
    }

    /// The header of type `T` at `offset`; `None` where the frame ends before it does.
    #[inline(always)]
    pub(crate) fn at<T>(&self, offset: usize) -> Option<&'a mut T> {
        let start = self.ctx.data() + offset;
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        // SAFETY: in bounds as just checked; `T` is one of the packed header overlays, for which any bytes are a
        // value; the program runs alone on its frame, and callers never hold two views of the same bytes.
        Some(unsafe { &mut *(start as *mut T) })
    }

    /// Cuts the frame to `len` bytes. Every view taken before is stale afterwards.
    #[inline(always)]
    pub(crate) fn truncate(&self, len: u64) -> bool {
        let delta = len as i64 - self.len() as i64;
        // SAFETY: the helper checks the range itself.
        delta <= 0 && unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, delta as i32) } == 0
    }
}

/// Sends the frame out of another interface.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> u32 {
    // SAFETY: no pointers; an index without an interface is an error counted by the kernel (xdp_redirect_err).
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}
