//! The rules that compare: VIPs with each other, with their RIPs, and both with the node's addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Host,
    node::Node,
    problem::{Place, Problems, quoted},
    services::{Balance, MAX_PORTS, MAX_RIPS, MAX_VIPS, Mode, Rip, Service, Services, Vip, width},
    table::At,
};
use crate::model::{PortRange, Protocol};

/// Applies every such rule to what is right so far; a file that could not be read is `None`.
pub(super) fn check(node: Option<&Node>, services: Option<&Services>, host: Option<&Host>, problems: &mut Problems) {
    let Some(services) = services else { return };
    counts(services, problems);
    unique_labels(&services.vips, problems);
    overlaps(&services.vips, problems);
    rip_addresses(&services.vips, host, problems);
    families(&services.vips, problems);
    twins(&services.vips, problems);
    if let Some(node) = node {
        snat(&node.snat, &services.vips, problems);
    }
}

fn counts(services: &Services, problems: &mut Problems) {
    let Services { root, vips, has_vip } = services;
    if vips.is_empty() && !has_vip {
        problems
            .warning(root, "there is no VIP: epiclb would serve nothing")
            .label("no [[vip]] in this file")
            .help("add [[vip]] with label, address, ports and [[vip.rip]]; `epiclb init` writes an example")
            .absence();
    }
    if let Some(vip) = vips.get(MAX_VIPS) {
        problems
            .error(&vip.place, format!("{} VIPs; {MAX_VIPS} is the most", vips.len()))
            .label("the first too many")
            .help("join VIPs on one address by listing several ports, or use a second pair of nodes");
    }
    let all_rips = rips(vips).count();
    if let Some((_, _, rip)) = rips(vips).nth(MAX_RIPS) {
        problems
            .error(&rip.place, format!("{all_rips} RIPs; {MAX_RIPS} is the most"))
            .label("the first too many")
            .help("use a second pair of nodes for some of the VIPs");
    }
    let mut ports = 0;
    let mut beyond = None;
    for range in vips.iter().flat_map(|vip| &vip.ports) {
        ports += width(range.value);
        if ports > MAX_PORTS {
            beyond = beyond.or(Some(range));
        }
    }
    if let Some(range) = beyond {
        problems
            .error(&range.place, format!("{ports} ports over all VIPs; {MAX_PORTS} is the most"))
            .label("the first too many")
            .help("list the ports the service needs instead of a wide range");
    }
}

fn unique_labels(vips: &[Vip], problems: &mut Problems) {
    let mut seen: BTreeMap<&str, &Place> = BTreeMap::new();
    for label in vips.iter().filter_map(|vip| vip.label.as_ref()) {
        match seen.get(label.value.as_str()) {
            Some(first) => {
                problems
                    .error(&label.place, format!("there are two VIPs called {}", quoted(&label.value)))
                    .help("give each its own label")
                    .see(first, "the first is here");
            }
            None => _ = seen.insert(&label.value, &label.place),
        }
    }
}

/// A range of ports that a VIP wants.
#[derive(Clone, Copy)]
struct Claim<'s> {
    /// Its index.
    vip: usize,
    ports: PortRange,
    place: &'s Place,
}

/// Two VIPs on one address, protocol and port: a packet could go to either.
fn overlaps(vips: &[Vip], problems: &mut Problems) {
    let mut sockets: BTreeMap<(IpAddr, Protocol), Vec<Claim<'_>>> = BTreeMap::new();
    for (index, vip) in vips.iter().enumerate() {
        if let (Some(address), Some(protocol)) = (&vip.address, vip.protocol) {
            let claims = vip.ports.iter().map(|at| Claim { vip: index, ports: at.value, place: &at.place });
            sockets.entry((address.value, protocol)).or_default().extend(claims);
        }
    }
    let mut reported: BTreeSet<(usize, usize)> = BTreeSet::new();
    for ((address, protocol), mut claims) in sockets {
        claims.sort_by_key(|claim| claim.ports);
        // Of those that start before, the one that reaches furthest: whoever starts within it overlaps.
        let mut furthest: Option<Claim<'_>> = None;
        for claim in claims {
            let other = furthest.filter(|other| other.vip != claim.vip && claim.ports.first <= other.ports.last);
            if let Some(other) = other {
                // The later one in the file is the one to look at.
                let (first, second) = if other.vip < claim.vip { (other, claim) } else { (claim, other) };
                if reported.insert((first.vip, second.vip)) {
                    let last = claim.ports.last.min(other.ports.last);
                    report_overlap(
                        first,
                        second,
                        PortRange { last, ..claim.ports },
                        (address, protocol),
                        vips,
                        problems,
                    );
                }
            }
            if furthest.is_none_or(|furthest| claim.ports.last > furthest.ports.last) {
                furthest = Some(claim);
            }
        }
    }
}

fn report_overlap(
    first: Claim<'_>,
    second: Claim<'_>,
    shared: PortRange,
    (address, protocol): (IpAddr, Protocol),
    vips: &[Vip],
    problems: &mut Problems,
) {
    let protocol = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let [first_name, second_name] = [first, second].map(|claim| quoted(&vips[claim.vip].shown()));
    problems
        .error(second.place, format!("{second_name} and {first_name} both want {address} {protocol} port {shared}"))
        .help("change the address or the ports of one of the two, or delete it")
        .see(first.place, format!("{first_name} has it here"));
}

/// A RIP that is a VIP, or this machine: its packets would come back to the balancer.
fn rip_addresses(vips: &[Vip], host: Option<&Host>, problems: &mut Problems) {
    let vip_addresses = vip_addresses(vips);
    for (_, _, rip) in rips(vips) {
        let Some(address) = &rip.address else { continue };
        if let Some(vip) = vip_addresses.get(&address.value) {
            let draft = problems.error(
                &address.place,
                format!(
                    "{} is the address of the VIP {}: packets would go in circles",
                    address.value,
                    quoted(&vip.shown())
                ),
            );
            draft.help("write the address of the server itself");
            if let Some(at) = &vip.address {
                draft.see(&at.place, "the VIP is here");
            }
        } else if host.is_some_and(|host| host.addresses.contains(&address.value)) {
            problems
                .warning(&address.place, format!("{} is an address of this machine", address.value))
                .help("write the address of the server; epiclb forwards to other machines only");
        }
    }
}

/// No mode of today or of the plan turns IPv4 into IPv6.
fn families(vips: &[Vip], problems: &mut Problems) {
    for (vip, _, rip) in rips(vips) {
        if let (Some(of_vip), Some(of_rip)) = (&vip.address, &rip.address)
            && of_vip.value.is_ipv4() != of_rip.value.is_ipv4()
        {
            let [vip_family, rip_family] = [of_vip, of_rip].map(|at| family(at.value));
            problems
                .error(&of_rip.place, format!("an {rip_family} RIP can't serve an {vip_family} VIP"))
                .help(format!("write the {vip_family} address of the server, or make a second VIP for {rip_family}"))
                .see(&of_vip.place, format!("the VIP is {vip_family}"));
        }
    }
}

/// Browsers that are sent to `http://` first find nothing there.
fn twins(vips: &[Vip], problems: &mut Problems) {
    let covers = |vip: &Vip, port: u16| {
        vip.ports
            .iter()
            .find(|at| (at.value.first.get()..=at.value.last.get()).contains(&port))
            .map(|at| at.place.clone())
    };
    let on_tcp = |vip: &&Vip| vip.protocol != Some(Protocol::Udp);
    let http: BTreeSet<IpAddr> = vips
        .iter()
        .filter(on_tcp)
        .filter(|vip| covers(vip, 80).is_some())
        .filter_map(|vip| Some(vip.address.as_ref()?.value))
        .collect();
    for vip in vips.iter().filter(on_tcp).filter(|vip| matches!(vip.service, Service::Balance(_))) {
        let (Some(address), Some(place)) = (&vip.address, covers(vip, 443)) else { continue };
        if !http.contains(&address.value) {
            let label = vip.label.as_ref().map_or("Name", |label| label.value.as_str());
            problems
                .warning(&place, format!("nothing answers on port 80 of {}: http:// links will fail", address.value))
                .help(format!(
                    "add a VIP with label = \"{label}_redirect\", address = \"{}\", ports = [80], force_https = true",
                    address.value
                ))
                .absence();
        }
    }
}

fn snat(snat: &[At<IpAddr>], vips: &[Vip], problems: &mut Problems) {
    let vip_addresses = vip_addresses(vips);
    let mut rip_addresses: BTreeMap<IpAddr, &Rip> = BTreeMap::new();
    for (_, _, rip) in rips(vips) {
        if let Some(address) = &rip.address {
            rip_addresses.entry(address.value).or_insert(rip);
        }
    }
    for At { value: address, place } in snat {
        if let Some(vip) = vip_addresses.get(address) {
            let draft = problems.error(place, format!("{address} is the address of the VIP {}", quoted(&vip.shown())));
            draft.help("leave `snat` out to use each VIP's own address, or write an address no VIP has");
            if let Some(at) = &vip.address {
                draft.see(&at.place, "the VIP is here");
            }
        } else if let Some(rip) = rip_addresses.get(address) {
            let draft =
                problems.error(place, format!("{address} is the address of a RIP: answers would not come back"));
            draft.help("write an address of this machine that no server has");
            if let Some(at) = &rip.address {
                draft.see(&at.place, "the RIP is here");
            }
        }
    }
    let Some(any) = snat.first() else { return };
    for v4 in [true, false] {
        let is_family = |address: &IpAddr| address.is_ipv4() == v4;
        let needs = vips.iter().find(|vip| {
            let by_snat = matches!(&vip.service, Service::Balance(Balance { mode: Some(Mode::Snat), .. }));
            by_snat && vip.address.as_ref().is_some_and(|at| is_family(&at.value))
        });
        let (Some(vip), false) = (needs, snat.iter().any(|at| is_family(&at.value))) else { continue };
        let Some(at) = &vip.address else { continue };
        let family = family(at.value);
        problems
            .error(
                &any.place,
                format!("`snat` has no {family} address, but the VIP {} is {family}", quoted(&vip.shown())),
            )
            .help(format!("add an {family} address to `snat`, or leave `snat` out to use each VIP's own address"))
            .see(&at.place, "the VIP is here");
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn vip_addresses(vips: &[Vip]) -> BTreeMap<IpAddr, &Vip> {
    let mut addresses = BTreeMap::new();
    for vip in vips {
        if let Some(address) = &vip.address {
            addresses.entry(address.value).or_insert(vip);
        }
    }
    addresses
}

fn rips(vips: &[Vip]) -> impl Iterator<Item = (&Vip, &Balance, &Rip)> {
    vips.iter()
        .filter_map(|vip| match &vip.service {
            Service::Balance(balance) => Some((vip, balance)),
            Service::Redirect { .. } | Service::Unclear => None,
        })
        .flat_map(|(vip, balance)| balance.rips.iter().map(move |rip| (vip, balance, rip)))
}
