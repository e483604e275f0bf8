//! The real program, a small hospital described to it, and what holds for every frame.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use aya::{
    maps::MapInfo,
    programs::{TestRun as _, TestRunOptions},
};
use epiclb::{
    dataplane::{Attached, Bpf, Settings, Sweeper, Swept, Table, Tally},
    desired::{Desired, HostPorts, Inputs, Retiring, desired, vip_identity},
    model::{
        Admin, AdminStates, Balance, Check, Config, Health, Limits, LogLevel, Mode, Node, PortRange, Protocol,
        Redirect, Rip, RipName, Service, Services, Vip, XdpMode,
    },
    plan::{Op, plan},
};
use epiclb_common::{
    Action, Addr, Flow, FlowKey, HalfOpen, Hop, Pin, PinKey, RipStats, Verdict,
    hash::Seed,
    maps::name,
    verdict::{Counter, Note},
};
use nix::{
    sched::{CloneFlags, unshare},
    time::{ClockId, clock_gettime},
};

use crate::frame::{At, Mac, OWN_MAC, Packet, Seen, Sums, from, mac_of, see, word};

/// In a test run, frames come in on the loopback interface.
pub(crate) const INGRESS: u32 = 1;
/// A second interface, behind which the RIP of `far` is.
pub(crate) const FAR: u32 = 7;
/// The second interface's MAC.
pub(crate) const FAR_MAC: Mac = [2, 0, 0, 0, 0, 7];

/// The secret behind rings and ports.
const SEED: Seed = Seed(7, 11);

/// Tables small enough to fill.
pub(crate) const SMALL: Limits = Limits { flows: 8192, pins: 4096, half_open: 1024 };

/// XDP's actions (include/uapi/linux/bpf.h).
pub(crate) mod action {
    pub(crate) const DROP: u32 = 1;
    pub(crate) const PASS: u32 = 2;
    pub(crate) const TX: u32 = 3;
    pub(crate) const REDIRECT: u32 = 4;
}

/// A loaded program. The verifier takes seconds over it, so that the next world gets it when this one is done with it,
/// unless its test has failed.
pub(crate) struct Loaded(Option<Program>);

struct Program {
    limits: Limits,
    bpf: Bpf,
    _dispatcher: Attached,
    /// Where the dispatcher is attached; it goes with its last user.
    _network: File,
}

/// Programs between two worlds.
static SPARE: Mutex<Vec<Program>> = Mutex::new(Vec::new());

impl Loaded {
    fn new(limits: Limits) -> Self {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = spare.iter().position(|program| program.limits == limits) {
            return Self(Some(spare.swap_remove(at)));
        }
        drop(spare);
        let mut bpf = Bpf::load(&Settings { limits, seed: SEED, pins: None }).unwrap_or_else(|e| panic!("{e:?}"));
        let dispatcher = keep_dispatched(&mut bpf);
        let network = File::open("/proc/thread-self/ns/net").expect("every Linux has it");
        Self(Some(Program { limits, bpf, _dispatcher: dispatcher, _network: network }))
    }
}

impl Deref for Loaded {
    type Target = Bpf;

    fn deref(&self) -> &Bpf {
        &self.0.as_ref().expect("it is taken out by drop alone").bpf
    }
}

impl DerefMut for Loaded {
    fn deref_mut(&mut self) -> &mut Bpf {
        &mut self.0.as_mut().expect("it is taken out by drop alone").bpf
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let (Some(program), false) = (self.0.take(), std::thread::panicking()) {
            SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(program);
        }
    }
}

/// The loaded program and everything that was told to it.
pub(crate) struct World {
    pub(crate) bpf: Loaded,
    pub(crate) config: Config,
    admin: AdminStates,
    health: BTreeMap<RipName, Health>,
    hops: BTreeMap<IpAddr, Hop>,
    host_ports: HostPorts,
    host_addresses: BTreeSet<IpAddr>,
    sweeper: Sweeper,
    tally: Tally,
    counted: Vec<(Verdict, Counter)>,
    /// What an earlier world has counted.
    inherited: Vec<(Verdict, Counter)>,
    inherited_notes: Vec<(Note, u64)>,
    /// Frames went through uncounted.
    uncounted: bool,
    /// Boot time just before the last frame.
    spoke: Duration,
    out: Vec<u8>,
}

/// What became of a frame.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) action: u32,
    pub(crate) frame: Vec<u8>,
}

impl Outcome {
    /// The frame that left, taken apart.
    pub(crate) fn seen(&self) -> Seen {
        assert_eq!(self.verdict.action(), Action::Forward, "{} leaves nothing to be seen", self.verdict.name());
        see(&self.frame)
    }
}

/// A TCP connection whose handshake went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) client: SocketAddr,
    pub(crate) vip: SocketAddr,
    pub(crate) snat: SocketAddr,
    pub(crate) rip: SocketAddr,
    /// The client's next sequence number.
    pub(crate) seq: u32,
    /// The RIP's next sequence number.
    pub(crate) ack: u32,
}

impl Connection {
    pub(crate) fn request(&self, payload: &[u8]) -> Packet {
        from(self.client).to(self.vip).data(self.seq, self.ack, payload)
    }

    pub(crate) fn response(&self, payload: &[u8]) -> Packet {
        from(self.rip).to(self.snat).data(self.ack, self.seq, payload)
    }

    pub(crate) fn client_fin(&self) -> Packet {
        from(self.client).to(self.vip).fin(self.seq, self.ack)
    }

    pub(crate) fn rip_fin(&self) -> Packet {
        from(self.rip).to(self.snat).fin(self.ack, self.seq)
    }

    pub(crate) fn key(&self) -> FlowKey {
        key(self.client, self.vip, 6)
    }
}

/// The first sequence numbers of client and RIP, where nothing else is asked for.
pub(crate) const CLIENT_ISN: u32 = 1000;
pub(crate) const RIP_ISN: u32 = 0xffff_fff0;

impl World {
    /// The hospital, everything online and up. `None` (with a word on stderr) without the right to load programs,
    /// unless `CI` is set: there it is a failure.
    pub(crate) fn new() -> Option<Self> {
        Self::with(SMALL, |_| {})
    }

    /// The hospital with other table sizes and a configuration changed by `edit`.
    pub(crate) fn with(limits: Limits, edit: impl FnOnce(&mut Config)) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            let missing = "the packet tables need root: they load a BPF program";
            assert!(std::env::var_os("CI").is_none(), "cannot test: {missing}");
            eprintln!("SKIPPED: {missing}.");
            return None;
        }
        let mut config = hospital();
        edit(&mut config);
        let mut bpf = Loaded::new(limits);
        bpf.set_interface(INGRESS, word(OWN_MAC)).expect("an index that fits");
        bpf.set_interface(FAR, word(FAR_MAC)).expect("an index that fits");
        let sweeper = bpf.sweeper(limits).expect("a sweeper");
        let (counted, noted) = (bpf.verdicts().expect("verdicts"), bpf.notes().expect("notes"));
        let hops = config.services.rips().map(|(vip, _, rip)| {
            let ifindex = if vip.label == "far" { FAR } else { INGRESS };
            (rip.address, Hop::new(word(mac_of(rip.address)), ifindex))
        });
        let mut world = Self {
            hops: hops.collect(),
            health: config.services.rips().map(|(vip, _, rip)| (vip.rip_name(rip), Health::Up)).collect(),
            bpf,
            config,
            admin: AdminStates::new(),
            host_ports: HostPorts::default(),
            host_addresses: BTreeSet::new(),
            sweeper,
            tally: Tally::default(),
            inherited: counted.clone(),
            inherited_notes: noted,
            counted,
            uncounted: false,
            spoke: boot(),
            out: vec![0; 4096],
        };
        world.forget();
        world.reconcile();
        Some(world)
    }

    /// Brings the kernel to what the configuration and the states ask for, as the daemon does.
    pub(crate) fn reconcile(&mut self) {
        let desired = self.apply_until(|_| false);
        assert_eq!(self.bpf.actual().expect("tables"), desired.tables, "the kernel holds what was planned");
        for (vip, ring) in &desired.rings {
            assert!(self.bpf.ring(*vip).expect("a ring") == ring.table(SEED), "the ring of VIP {vip} is another");
        }
    }

    /// Carries out the plan up to the first step of a kind, that one included, as a daemon that is killed does.
    pub(crate) fn apply_until(&mut self, last: impl Fn(&Op) -> bool) -> Desired {
        let actual = self.bpf.actual().expect("tables");
        let desired = desired(&Inputs {
            config: &self.config,
            admin: &self.admin,
            health: &self.health,
            hops: &self.hops,
            actual: &actual,
            tally: &self.tally,
            recent: &Retiring::default(),
            resting: &BTreeSet::new(),
            host_ports: self.host_ports,
            host_addresses: &self.host_addresses,
            seed: SEED,
        });
        for op in plan(&actual, &desired) {
            self.bpf.apply(&op).unwrap_or_else(|error| panic!("{error:?}"));
            if last(&op) {
                break;
            }
        }
        desired
    }

    /// What the operator wants of `"vip/rip"`.
    pub(crate) fn admin(&mut self, rip: &str, admin: Admin) {
        self.admin.insert(rip_name(rip), admin);
        self.reconcile();
    }

    /// What the probes see of `"vip/rip"`.
    pub(crate) fn health(&mut self, rip: &str, health: Health) {
        self.health.insert(rip_name(rip), health);
        self.reconcile();
    }

    /// What the neighbour table says of an address.
    pub(crate) fn neighbour(&mut self, ip: &str, mac: Option<Mac>) {
        let ip = ip.parse().expect("an address");
        match mac {
            Some(mac) => self.hops.insert(ip, Hop::new(word(mac), INGRESS)),
            None => self.hops.remove(&ip),
        };
        self.reconcile();
    }

    /// Edits `services.toml` and reloads.
    pub(crate) fn reload(&mut self, edit: impl FnOnce(&mut Config)) {
        edit(&mut self.config);
        self.reconcile();
    }

    /// The addresses and ports the host has for itself.
    pub(crate) fn host(&mut self, address: &str, ports: HostPorts) {
        self.host_addresses.insert(address.parse().expect("an address"));
        self.host_ports = ports;
        self.reconcile();
    }

    /// Forgets what an earlier world has left in the tables.
    fn forget(&mut self) {
        let pins: Vec<PinKey> = self.pins().into_keys().collect();
        self.bpf.remove_pins(&pins).expect("pins");
        let flows = self.map::<FlowKey, Flow>(name::FLOWS);
        for key in self.flows().keys() {
            flows.remove(key).expect("flows");
        }
        let half_open = self.map::<FlowKey, HalfOpen>(name::HALF_OPEN);
        for key in self.half_open().keys() {
            half_open.remove(key).expect("handshakes");
        }
        // The program keeps below its limit by what the sweeper tells it.
        self.sweep(Duration::ZERO);
        self.tally = Tally::default();
        for op in plan(&self.bpf.actual().expect("tables"), &Desired::default()) {
            self.bpf.apply(&op).unwrap_or_else(|error| panic!("{error:?}"));
        }
    }

    /// Runs one frame through the program, and asserts what holds for every frame.
    pub(crate) fn send(&mut self, frame: impl Into<Vec<u8>>) -> Outcome {
        let input = frame.into();
        if self.uncounted {
            self.recount();
        }
        let (action, frame) = self.run(&input);
        self.uncounted = false;
        let now = self.bpf.verdicts().expect("verdicts");
        let moved: Vec<_> =
            now.iter().zip(&self.counted).filter(|(now, then)| now.1.packets != then.1.packets).collect();
        let [((verdict, after), (_, before))] = moved[..] else { panic!("not one verdict: {moved:?}") };
        assert_eq!(after.packets, before.packets + 1, "{} counts a packet", verdict.name());
        assert_eq!(after.bytes, before.bytes + input.len() as u64, "{} counts the frame's bytes", verdict.name());
        let outcome = Outcome { verdict: *verdict, action, frame };
        self.counted = now;
        check(&input, &outcome);
        outcome
    }

    /// Runs one frame through the program; its action and what became of its bytes. Nothing is asserted.
    pub(crate) fn run(&mut self, input: &[u8]) -> (u32, Vec<u8>) {
        self.uncounted = true;
        self.spoke = boot();
        let options = TestRunOptions { data_in: Some(input), data_out: Some(&mut self.out), ..Default::default() };
        let result = self
            .bpf
            .program()
            .expect("it is loaded")
            .test_run(options)
            .unwrap_or_else(|error| panic!("test run of {} bytes: {error:?}", input.len()));
        (result.return_value, self.out[..result.data_size_out as usize].to_vec())
    }

    /// Takes note of the counters after frames that went past [`Self::send`].
    fn recount(&mut self) {
        self.counted = self.bpf.verdicts().expect("verdicts");
        self.uncounted = false;
    }

    /// Packets that ended under a verdict.
    pub(crate) fn verdict(&mut self, verdict: Verdict) -> u64 {
        if self.uncounted {
            self.recount();
        }
        let packets = |counters: &[(Verdict, Counter)]| {
            counters.iter().find(|(v, _)| *v == verdict).map_or(0, |(_, counter)| counter.packets)
        };
        packets(&self.counted) - packets(&self.inherited)
    }

    /// Sends it and expects this verdict.
    #[track_caller]
    pub(crate) fn expect(&mut self, verdict: Verdict, frame: impl Into<Vec<u8>>) -> Outcome {
        let frame = frame.into();
        let outcome = self.send(frame.clone());
        assert_eq!(outcome.verdict, verdict, "{frame:02x?}");
        outcome
    }

    /// Sends it to a RIP, and returns what the RIP sees.
    #[track_caller]
    #[expect(clippy::wrong_self_convention, reason = "it sends; the name is a verdict's")]
    pub(crate) fn to_rip(&mut self, frame: impl Into<Vec<u8>>) -> Seen {
        self.expect(Verdict::ToRip, frame).seen()
    }

    /// Sends it to a client, and returns what the client sees.
    #[track_caller]
    #[expect(clippy::wrong_self_convention, reason = "it sends; the name is a verdict's")]
    pub(crate) fn to_client(&mut self, frame: impl Into<Vec<u8>>) -> Seen {
        self.expect(Verdict::ToClient, frame).seen()
    }

    /// A whole handshake.
    #[track_caller]
    pub(crate) fn connect(&mut self, client: impl At, vip: impl At) -> Connection {
        let connection = self.half_connect(client, vip);
        self.to_rip(from(connection.client).to(connection.vip).ack(connection.seq, connection.ack));
        connection
    }

    /// SYN and SYN-ACK, without the client's ACK.
    #[track_caller]
    pub(crate) fn half_connect(&mut self, client: impl At, vip: impl At) -> Connection {
        let (client, vip) = (client.at(), vip.at());
        let syn = self.to_rip(from(client).to(vip).syn(CLIENT_ISN));
        let seq = CLIENT_ISN + 1;
        self.to_client(from(syn.dst).to(syn.src).syn_ack(RIP_ISN, seq));
        Connection { client, vip, snat: syn.src, rip: syn.dst, seq, ack: RIP_ISN.wrapping_add(1) }
    }

    /// The RIP a client's new connection would go to. Leaves a half-open handshake behind.
    #[track_caller]
    pub(crate) fn choice(&mut self, client: impl At, vip: impl At) -> IpAddr {
        self.to_rip(from(client).to(vip).syn(77)).dst.ip()
    }

    /// All flow entries.
    pub(crate) fn flows(&self) -> BTreeMap<FlowKey, Flow> {
        let mut flows = BTreeMap::new();
        self.bpf
            .for_each_flow(|key, flow| {
                flows.insert(*key, *flow);
            })
            .expect("flows");
        flows
    }

    /// One direction of a flow.
    pub(crate) fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows().get(key).copied()
    }

    /// Both directions of a flow: to the RIP, to the client.
    #[track_caller]
    pub(crate) fn both(&self, connection: &Connection) -> (Flow, Flow) {
        let flows = self.flows();
        let there = flows[&connection.key()];
        (there, flows[&there.other_key(6)])
    }

    /// Makes a flow look as if its last packets had come `age` ago.
    pub(crate) fn age_flow(&mut self, key: &FlowKey, age: Duration) {
        let mut flow = self.flow(key).expect("a flow");
        flow.seen = flow.seen.saturating_sub(age.as_secs() as u32);
        flow.stamp = 0;
        self.bpf.put_flow(key, &flow).expect("room");
    }

    /// Handshakes under way.
    pub(crate) fn half_open(&self) -> BTreeMap<FlowKey, HalfOpen> {
        let mut all = BTreeMap::new();
        self.map(name::HALF_OPEN)
            .for_each(|key, half| {
                all.insert(*key, *half);
            })
            .expect("half-open flows");
        all
    }

    /// Makes all handshakes under way look as if they had begun `age` ago.
    pub(crate) fn age_half_open(&self, age: Duration) {
        let table = self.map::<FlowKey, HalfOpen>(name::HALF_OPEN);
        for (key, mut half) in self.half_open() {
            half.flow.seen = half.flow.seen.wrapping_sub(age.as_secs() as u32);
            table.put(&key, &half).expect("room");
        }
    }

    /// All pins.
    pub(crate) fn pins(&self) -> BTreeMap<PinKey, Pin> {
        let mut pins = BTreeMap::new();
        self.bpf
            .for_each_pin(|key, pin| {
                pins.insert(*key, *pin);
            })
            .expect("pins");
        pins
    }

    /// A client's pin at a VIP.
    pub(crate) fn pin(&self, vip: &str, client: &str) -> Option<Pin> {
        self.pins().get(&pin_key(vip, client)).copied()
    }

    /// The address of the RIP a client is pinned to.
    pub(crate) fn pinned_to(&self, vip: &str, client: &str) -> Option<IpAddr> {
        self.pin(vip, client).map(|pin| self.address_of(pin.rip))
    }

    /// Makes a pin look as if its client had been silent for `age`.
    #[track_caller]
    pub(crate) fn age_pin(&self, vip: &str, client: &str, age: Duration) {
        let key = pin_key(vip, client);
        let mut pin = self.pins()[&key];
        pin.seen = (boot() - age).as_nanos() as u64;
        self.bpf.put_pin(&key, &pin).expect("room");
    }

    /// Pins a client to `"vip/rip"` by hand, as of now.
    pub(crate) fn pin_to(&self, client: &str, rip: &str) {
        let (vip, _) = rip.split_once('/').expect("vip/rip");
        let pin = Pin { seen: boot().as_nanos() as u64, rip: self.id(rip), since: boot().as_secs() as u32 };
        self.bpf.put_pin(&pin_key(vip, client), &pin).expect("room");
    }

    /// The name `"vip/rip"` of the RIP of `vip` at an address.
    pub(crate) fn name_at(&self, vip: &str, address: IpAddr) -> String {
        let mut rips = self.config.services.rips();
        let found = rips.find(|(v, _, rip)| v.label == vip && rip.address == address);
        found.map(|(vip, _, rip)| vip.rip_name(rip).to_string()).unwrap_or_else(|| panic!("{vip} has no {address}"))
    }

    /// The address behind a RIP's id.
    pub(crate) fn address_of(&self, rip: u32) -> IpAddr {
        self.bpf.actual().expect("tables").rips[&rip].addr.into()
    }

    /// The id of `"vip/rip"`.
    pub(crate) fn id(&self, rip: &str) -> u32 {
        let name = rip_name(rip);
        let (_, _, rip) = self
            .config
            .services
            .rips()
            .find(|(vip, _, rip)| vip.rip_name(rip) == name)
            .unwrap_or_else(|| panic!("no RIP {name}"));
        let tables = self.bpf.actual().expect("tables");
        let vip = vip_identity(&name.vip);
        let found = tables.rips.iter().find(|(_, wire)| wire.group == vip && wire.addr == Addr::from(rip.address));
        *found.unwrap_or_else(|| panic!("{name} is not in the tables")).0
    }

    /// A RIP's counters.
    pub(crate) fn stats(&self, rip: &str) -> RipStats {
        self.bpf.rip_stats(self.id(rip)).expect("stats")
    }

    /// One of the program's other counts.
    pub(crate) fn note(&self, note: Note) -> u64 {
        let count = |notes: &[(Note, u64)]| notes.iter().find(|(n, _)| *n == note).map_or(0, |(_, count)| *count);
        count(&self.bpf.notes().expect("notes")) - count(&self.inherited_notes)
    }

    /// One sweep, `ahead` of the present.
    pub(crate) fn sweep(&mut self, ahead: Duration) -> Swept {
        self.sweep_at(boot() + ahead)
    }

    /// One sweep when the last frame was `silence` ago, however long the test has paused since.
    pub(crate) fn sweep_after(&mut self, silence: Duration) -> Swept {
        self.sweep_at(self.spoke + silence)
    }

    fn sweep_at(&mut self, now: Duration) -> Swept {
        let rips = self.bpf.actual().expect("tables").rips;
        let swept = self.sweeper.sweep(now, &rips).expect("a sweep");
        self.tally = swept.tally.clone();
        swept
    }

    /// One of the program's maps, for what the daemon never does.
    pub(crate) fn map<K: aya::Pod + Default, V: aya::Pod + Default>(&self, name: &str) -> Table<K, V> {
        let program = self.bpf.program().expect("it is loaded").info().expect("its info");
        let ids = program.map_ids().expect("its maps").expect("a kernel that tells");
        let info = ids
            .into_iter()
            .map(|id| MapInfo::from_id(id).expect("a map"))
            .find(|info| info.name_as_str() == Some(name))
            .unwrap_or_else(|| panic!("the program has no map {name}"));
        Table::new(info.fd().expect("its handle")).expect("a map of these types")
    }
}

/// What must hold whatever the frame.
fn check(input: &[u8], outcome: &Outcome) {
    let Outcome { verdict, action, frame } = outcome;
    assert_ne!(*verdict, Verdict::DropInternal, "a defect: {input:02x?}");
    match verdict.action() {
        Action::Pass => {
            assert_eq!(*action, action::PASS);
            assert_eq!(frame, input, "what passes is not touched");
        }
        Action::Drop => assert_eq!(*action, action::DROP),
        Action::Forward => {
            assert!(matches!(*action, action::TX | action::REDIRECT), "{action}");
            if Sums::of(input).is_some_and(|sums| sums.are_right()) {
                let sums = Sums::of(frame).expect("what is forwarded is whole");
                assert!(sums.are_right(), "{sums:?} in {frame:02x?}");
            }
            if *verdict != Verdict::ResetSent {
                assert_only_nat(input, frame);
            }
        }
    }
}

/// That full NAT changed what it must, and nothing else.
pub(crate) fn assert_only_nat(input: &[u8], output: &[u8]) {
    assert_eq!(input.len(), output.len(), "NAT keeps the length");
    let (ttl, ip_sum, addresses, l4) = match input[12..14] {
        [0x08, 0x00] => (22, 24..26, 26..34, 34),
        _ => (21, 0..0, 22..54, 54),
    };
    let protocol = if l4 == 34 { input[23] } else { input[20] };
    let l4_sum = if protocol == 6 { l4 + 16..l4 + 18 } else { l4 + 6..l4 + 8 };
    assert_eq!(output[ttl], input[ttl] - 1, "one hop less to live");
    for (at, (before, after)) in input.iter().zip(output).enumerate() {
        let may_change = at < 12
            || at == ttl
            || ip_sum.contains(&at)
            || addresses.contains(&at)
            || (l4..l4 + 4).contains(&at)
            || l4_sum.contains(&at);
        assert!(may_change || before == after, "byte {at} went from {before:02x} to {after:02x}");
    }
}

/// A flow's key, from what a packet shows.
pub(crate) fn key(src: impl At, dst: impl At, proto: u32) -> FlowKey {
    let (src, dst) = (src.at(), dst.at());
    FlowKey {
        src: src.ip().into(),
        dst: dst.ip().into(),
        ports: epiclb_common::flow::join_ports(src.port().to_be(), dst.port().to_be()),
        proto,
    }
}

/// A pin's key.
pub(crate) fn pin_key(vip: &str, client: &str) -> PinKey {
    PinKey { group: vip_identity(vip), client: client.parse::<IpAddr>().expect("an address").into() }
}

/// Time since boot, as the program has it.
pub(crate) fn boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has it").into()
}

/// A test run puts its program into the kernel's XDP dispatcher and takes it out again, which waits for all CPUs:
/// 20 ms a frame. A program that is attached somewhere stays in it. Here that is the loopback interface of a network
/// namespace of this thread's own, which is down.
fn keep_dispatched(bpf: &mut Bpf) -> Attached {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of our own");
    bpf.attach("lo", INGRESS, XdpMode::Generic, None, None).unwrap_or_else(|error| panic!("{error}"))
}

fn rip_name(name: &str) -> RipName {
    let (vip, rip) = name.split_once('/').unwrap_or_else(|| panic!("{name} is not vip/rip"));
    RipName { vip: vip.into(), rip: rip.into() }
}

/// The hospital's persistence: 60 minutes, as the guide has it. An entry can't be made older than the machine's last
/// boot, so one that booted lately has shorter hours.
pub(crate) fn hour() -> Duration {
    static HOUR: OnceLock<Duration> = OnceLock::new();
    *HOUR.get_or_init(|| Duration::from_secs((boot().as_secs() / 3).min(3600)))
}

fn hospital() -> Config {
    use Protocol::{Tcp, Udp};
    let hour = Some(hour());
    let abc = ["192.168.85.201", "192.168.85.202", "192.168.85.203"];
    let six = ["2001:db8:85::201", "2001:db8:85::202"];
    Config {
        node: Node {
            name: "lb1".into(),
            interfaces: vec!["lo".into()],
            xdp_mode: XdpMode::Auto,
            snat: Vec::new(),
            socket: PathBuf::new(),
            state_dir: PathBuf::new(),
            bpffs_dir: PathBuf::new(),
            log_level: LogLevel::Info,
            log_client_addresses: false,
            limits: SMALL,
        },
        services: Services {
            vips: vec![
                vip("web", "192.168.85.150", 443..=443, Tcp, hour, &abc),
                vip("web6", "2001:db8:85::150", 443..=443, Tcp, hour, &six),
                vip("bulk", "192.168.85.151", 8000..=8010, Tcp, None, &abc[..2]),
                with_port(8443, vip("app", "192.168.85.152", 443..=443, Tcp, hour, &abc[..2])),
                vip("dns", "192.168.85.150", 53..=53, Udp, hour, &abc[..2]),
                vip("dns6", "2001:db8:85::150", 53..=53, Udp, None, &six[..1]),
                vip("far", "192.168.85.153", 443..=443, Tcp, hour, &["172.16.0.9"]),
                Vip {
                    label: "redirect".into(),
                    address: "192.168.85.150".parse().expect("an address"),
                    ports: vec![range(80..=80)],
                    protocol: Tcp,
                    service: Service::Redirect(Redirect::default()),
                },
            ],
        },
    }
}

/// A balanced VIP with RIPs `a`, `b`, …, all of weight 100 and without a port of their own.
pub(crate) fn vip(
    label: &str,
    address: &str,
    ports: std::ops::RangeInclusive<u16>,
    protocol: Protocol,
    persistence: Option<Duration>,
    rips: &[&str],
) -> Vip {
    let rip = |(label, address): (char, &&str)| Rip {
        label: label.into(),
        address: address.parse().expect("an address"),
        port: None,
        weight: 100,
    };
    Vip {
        label: label.into(),
        address: address.parse().expect("an address"),
        ports: vec![range(ports)],
        protocol,
        service: Service::Balance(Balance {
            mode: Mode::Snat,
            persistence,
            check: Check::default(),
            rips: ('a'..).zip(rips).map(rip).collect(),
        }),
    }
}

/// A balanced VIP of a configuration, to be edited.
pub(crate) fn balance<'a>(config: &'a mut Config, vip: &str) -> &'a mut Balance {
    let vip = config.services.vips.iter_mut().find(|v| v.label == vip).unwrap_or_else(|| panic!("no VIP {vip}"));
    match &mut vip.service {
        Service::Balance(balance) => balance,
        Service::Redirect(_) => panic!("{} is a redirect", vip.label),
    }
}

fn with_port(port: u16, mut vip: Vip) -> Vip {
    if let Service::Balance(balance) = &mut vip.service {
        balance.rips.iter_mut().for_each(|rip| rip.port = NonZeroU16::new(port));
    }
    vip
}

fn range(ports: std::ops::RangeInclusive<u16>) -> PortRange {
    let port = |port: &u16| NonZeroU16::new(*port).expect("not zero");
    PortRange { first: port(ports.start()), last: port(ports.end()) }
}
