//! Every way a packet can leave the XDP program.

/// What the program does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The kernel goes on with it, untouched.
    Pass,
    /// It leaves again, rewritten.
    Forward,
    /// It ends here.
    Drop,
}

impl Action {
    /// The word for it in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Forward => "forward",
            Self::Drop => "drop",
        }
    }
}

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])* $name:ident = $action:ident $word:literal,)*) => {
        /// Why a packet left the program. Each has a counter under its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Verdict {
            $($(#[doc = $doc])* $name,)*
        }

        impl Verdict {
            /// All of them, in counter order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// What is done with the packet.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self {
                    $(Self::$name => Action::$action,)*
                }
            }

            /// The counter's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),*),)*
                }
            }
        }
    };
}

verdicts! {
    /// The frame is not for this interface's MAC (flooded, broadcast, multicast).
    PassOtherMac = Pass "pass_other_mac",
    /// Neither IPv4 nor IPv6 (ARP, LLDP, STP, VLAN-tagged, …).
    PassNotIp = Pass "pass_not_ip",
    /// The packet is neither for a VIP nor part of a flow.
    PassNotOurs = Pass "pass_not_ours",
    /// ICMP echo or neighbour discovery for a VIP: the host answers.
    PassIcmp = Pass "pass_icmp",
    /// For a redirect VIP: the daemon answers.
    PassRedirect = Pass "pass_redirect",

    /// Rewritten, on its way to a RIP.
    ToRip = Forward "to_rip",
    /// Rewritten, on its way to a client.
    ToClient = Forward "to_client",
    /// The flow's RIP is halted or gone: the sender was answered with a TCP RST.
    ResetSent = Forward "reset_sent",

    /// The frame ends before its headers do.
    DropTruncated = Drop "drop_truncated",
    /// Header fields contradict each other or the frame.
    DropMalformed = Drop "drop_malformed",
    /// A fragment for a VIP: its flow can't be told.
    DropFragment = Drop "drop_fragment",
    /// IPv4 options in a packet for a VIP.
    DropIpOptions = Drop "drop_ip_options",
    /// An IPv6 extension header in a packet for a VIP.
    DropExtensionHeader = Drop "drop_extension_header",
    /// A protocol that no VIP serves, for a VIP.
    DropProtocol = Drop "drop_protocol",
    /// ICMP for a VIP other than echo and neighbour discovery.
    DropIcmp = Drop "drop_icmp",
    /// A port that no VIP serves at this address.
    DropNoService = Drop "drop_no_service",
    /// A source address that can't be a client's: a VIP's own, loopback, multicast, unspecified.
    DropBadSource = Drop "drop_bad_source",
    /// TCP that belongs to no flow and opens none.
    DropNoFlow = Drop "drop_no_flow",
    /// An ACK that does not fit the handshake it pretends to finish.
    DropUnverified = Drop "drop_unverified",
    /// No RIP of the VIP may take the client.
    DropNoRip = Drop "drop_no_rip",
    /// The RIP's MAC is not known (yet).
    DropNoNeighbour = Drop "drop_no_neighbour",
    /// No free SNAT port was found for this RIP.
    DropSnatPorts = Drop "drop_snat_ports",
    /// The flow table is full.
    DropFlowTableFull = Drop "drop_flow_table_full",
    /// The kernel could not take a table's lock or memory in time; the sender sends again.
    DropTableBusy = Drop "drop_table_busy",
    /// UDP from, or a RST for, a flow whose RIP is halted or gone.
    DropHalted = Drop "drop_halted",
    /// No hops left to live.
    DropTtl = Drop "drop_ttl",
    /// A map the program needs was not there: a defect.
    DropInternal = Drop "drop_internal",
}

impl Verdict {
    /// How many verdicts there are.
    pub const COUNT: u32 = Self::ALL.len() as u32;
}

/// Things worth counting that do not end a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Note {
    /// Pins inserted.
    PinInserted,
    /// A verified client was not pinned: the table is at its limit. The ring serves it.
    PinTableFull,
    /// A pinned client was placed anew: its RIP could not take it.
    PinMoved,
}

impl Note {
    /// All of them, in counter order.
    pub const ALL: &[Self] = &[Self::PinInserted, Self::PinTableFull, Self::PinMoved];
    /// How many notes there are.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// The counter's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PinInserted => "pin_inserted",
            Self::PinTableFull => "pin_table_full",
            Self::PinMoved => "pin_moved",
        }
    }
}

crate::wire::wire! {
    /// One verdict's counter on one CPU.
    pub struct Counter {
        /// Packets.
        pub packets: u64,
        /// Bytes of frames.
        pub bytes: u64,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_verdict_stands_at_its_own_counter_under_its_own_name() {
        for (i, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, i);
            assert!(!verdict.meaning().trim().is_empty());
        }
        let names: BTreeSet<_> = Verdict::ALL.iter().map(|v| v.name()).collect();
        assert_eq!(names.len(), Verdict::ALL.len());
        for (i, note) in Note::ALL.iter().enumerate() {
            assert_eq!(*note as usize, i);
        }
    }
}
