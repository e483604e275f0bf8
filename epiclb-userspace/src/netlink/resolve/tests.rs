use proptest::prelude::*;

use super::{super::Route, *};

const LINK: u32 = 2;
const OLD: Mac = [2, 0, 0, 0, 0, 1];
const NEW: Mac = [2, 0, 0, 0, 0, 2];

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn via(gateway: Option<IpAddr>) -> Path {
    Path::Via(Route { ifindex: LINK, gateway, source: None })
}

fn neighbour(last: u8, mac: Option<Mac>, state: NeighbourState) -> Neighbour {
    Neighbour { ifindex: LINK, ip: ip(last), mac, state }
}

fn reachable(mac: Mac) -> Neighbour {
    neighbour(9, Some(mac), NeighbourState::Reachable)
}

fn seconds(s: f32) -> Duration {
    Duration::from_secs_f32(s)
}

/// A resolver that wants the on-link server .9, and the moment it began.
fn wanting_one() -> (Resolver, Instant) {
    let (mut resolver, start) = (Resolver::default(), Instant::now());
    resolver.want([(ip(9), via(None))].into(), start);
    (resolver, start)
}

/// Lets time pass until `end`, with nobody answering, and notes what was asked and when (whole milliseconds).
fn silence(resolver: &mut Resolver, start: Instant, end: Duration) -> Vec<(u128, ProbeKind)> {
    let mut asked = Vec::new();
    while let Some(due) = resolver.next_due().filter(|&due| due <= start + end) {
        asked.extend(resolver.probes(due).into_iter().map(|probe| ((due - start).as_millis(), probe.kind)));
    }
    asked
}

#[test]
fn a_server_that_nobody_answers_for_is_asked_for_ever_more_slowly() {
    let (mut resolver, start) = wanting_one();
    let asked = silence(&mut resolver, start, seconds(22.0));
    let at: Vec<_> = asked.iter().map(|(at, _)| *at).collect();
    assert_eq!(at, [0, 1000, 3000, 6000, 10_000, 15_000, 20_000]);
    assert!(asked.iter().all(|(_, kind)| *kind == ProbeKind::Resolve));
    assert_eq!(resolver.hop(ip(9)), Hop::Unknown);
}

#[test]
fn an_answer_makes_the_hop_known_and_a_confirmation_changes_nothing() {
    let (mut resolver, start) = wanting_one();
    assert_eq!(resolver.probes(start).len(), 1);
    assert!(resolver.heard(reachable(OLD), start), "a new MAC is a change");
    assert_eq!(resolver.hop(ip(9)), Hop::Known { ifindex: LINK, mac: OLD });

    for round in 1..=3 {
        let now = start + CONFIRM_EVERY * round;
        assert_eq!(resolver.next_due(), Some(now));
        assert_eq!(resolver.probes(now), [Probe { ifindex: LINK, ip: ip(9), kind: ProbeKind::Confirm }]);
        assert!(!resolver.heard(neighbour(9, Some(OLD), NeighbourState::Probing), now));
        assert!(!resolver.heard(reachable(OLD), now), "a confirmation is none");
    }
}

#[test]
fn a_mac_that_changes_silently_is_renewed_within_four_seconds() {
    let (mut resolver, start) = wanting_one();
    resolver.heard(reachable(OLD), start);
    let asked = silence(&mut resolver, start, seconds(4.5));
    assert_eq!(asked, [(3000, ProbeKind::Confirm), (4000, ProbeKind::Renew)]);

    // The kernel tells that it forgot the old one, and then that somebody answered.
    let now = start + seconds(4.01);
    assert!(!resolver.heard(neighbour(9, None, NeighbourState::Failed), now));
    assert_eq!(resolver.hop(ip(9)), Hop::Known { ifindex: LINK, mac: OLD }, "until another answers");
    assert!(resolver.heard(reachable(NEW), now));
    assert_eq!(resolver.hop(ip(9)), Hop::Known { ifindex: LINK, mac: NEW });
    assert_eq!(resolver.next_due(), Some(now + CONFIRM_EVERY));
}

#[test]
fn a_gratuitous_arp_is_believed_at_once_and_then_confirmed() {
    let (mut resolver, start) = wanting_one();
    resolver.heard(reachable(OLD), start);
    let now = start + seconds(1.0);
    assert!(resolver.heard(neighbour(9, Some(NEW), NeighbourState::Stale), now));
    assert_eq!(resolver.hop(ip(9)), Hop::Known { ifindex: LINK, mac: NEW });
    assert_eq!(resolver.probes(now)[0].kind, ProbeKind::Confirm);
    assert!(!resolver.heard(neighbour(9, Some(NEW), NeighbourState::Stale), now), "heard again while being confirmed");
    assert_eq!(resolver.probes(now), []);
}

#[test]
fn a_server_that_falls_silent_keeps_its_mac_and_is_looked_for() {
    for gone in [NeighbourState::Failed, NeighbourState::Unresolved, NeighbourState::Gone] {
        let (mut resolver, start) = wanting_one();
        resolver.heard(reachable(OLD), start);
        assert!(!resolver.heard(neighbour(9, None, gone), start));
        assert_eq!(resolver.hop(ip(9)), Hop::Known { ifindex: LINK, mac: OLD });
        assert_eq!(resolver.probes(start)[0].kind, ProbeKind::Resolve);
    }
}

#[test]
fn an_administrators_entry_is_used_and_never_probed() {
    let (mut resolver, start) = wanting_one();
    assert!(resolver.heard(neighbour(9, Some(OLD), NeighbourState::Static), start));
    assert_eq!(resolver.hop(ip(9)), Hop::Known { ifindex: LINK, mac: OLD });
    assert_eq!(resolver.next_due(), None);
    assert_eq!(resolver.probes(start + seconds(100.0)), []);
}

#[test]
fn what_was_heard_before_it_was_wanted_counts() {
    let (mut resolver, start) = (Resolver::default(), Instant::now());
    assert!(!resolver.heard(reachable(OLD), start), "nobody wants it");
    assert_eq!(resolver.hop(ip(9)), Hop::Unknown);
    resolver.want([(ip(9), via(None))].into(), start);
    assert_eq!(resolver.hop(ip(9)), Hop::Known { ifindex: LINK, mac: OLD });
}

#[test]
fn servers_behind_one_gateway_share_its_mac_and_its_probes() {
    let (mut resolver, start) = (Resolver::default(), Instant::now());
    resolver.want([(ip(1), via(Some(ip(9)))), (ip(2), via(Some(ip(9))))].into(), start);
    assert_eq!(resolver.probes(start), [Probe { ifindex: LINK, ip: ip(9), kind: ProbeKind::Resolve }]);
    resolver.heard(reachable(OLD), start);
    assert_eq!(resolver.hop(ip(1)), Hop::Known { ifindex: LINK, mac: OLD });
    assert_eq!(resolver.hop(ip(2)), resolver.hop(ip(1)));
}

#[test]
fn no_route_and_a_route_to_oneself_are_unreachable() {
    let (mut resolver, start) = (Resolver::default(), Instant::now());
    resolver.want([(ip(1), Path::Unreachable), (ip(2), Path::Local)].into(), start);
    assert_eq!([resolver.hop(ip(1)), resolver.hop(ip(2))], [Hop::Unreachable; 2]);
    assert_eq!(resolver.probes(start), []);
}

#[test]
fn wanting_anew_keeps_what_is_known_and_forgets_what_is_not_wanted() {
    let (mut resolver, start) = wanting_one();
    resolver.heard(reachable(OLD), start);
    resolver.heard(neighbour(9, None, NeighbourState::Failed), start);
    resolver.want([(ip(8), via(None)), (ip(9), via(None))].into(), start);
    assert_eq!(resolver.hop(ip(9)), Hop::Known { ifindex: LINK, mac: OLD });
    resolver.want([(ip(8), via(None))].into(), start);
    assert_eq!(resolver.hop(ip(9)), Hop::Unknown);
    assert_eq!(resolver.probes(start).len(), 1);
}

#[test]
fn a_fresh_look_brings_in_what_was_missed() {
    let (mut resolver, start) = wanting_one();
    resolver.heard(reachable(OLD), start);
    assert!(resolver.sync([reachable(NEW)], start));
    assert_eq!(resolver.hop(ip(9)), Hop::Known { ifindex: LINK, mac: NEW });
    assert!(!resolver.sync([], start), "the MAC stays, the search begins");
    assert_eq!(resolver.probes(start)[0].kind, ProbeKind::Resolve);
}

#[test]
fn a_thousand_servers_are_asked_for_in_groups() {
    let (mut resolver, start) = (Resolver::default(), Instant::now());
    let servers = (0..1000_u32).map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), via(None)));
    resolver.want(servers.collect(), start);
    let (mut now, mut asked) = (start, BTreeSet::new());
    for _ in 0..10 {
        let probes = resolver.probes(now);
        assert!(probes.len() <= GROUP);
        asked.extend(probes.into_iter().map(|probe| probe.ip));
        now += GROUP_GAP;
    }
    assert_eq!(asked.len(), 10 * GROUP);
    assert_eq!(resolver.next_due(), Some(now));
    for _ in 0..10 {
        asked.extend(resolver.probes(now).into_iter().map(|probe| probe.ip));
        now += GROUP_GAP;
    }
    assert_eq!(asked.len(), 1000, "each once before any a third time");
}

fn any_state() -> impl Strategy<Value = NeighbourState> {
    use NeighbourState::*;
    prop::sample::select(vec![Unresolved, Reachable, Stale, Probing, Failed, Static, Gone])
}

proptest! {
    #[test]
    fn a_known_hop_stays_known_and_is_never_left_without_a_next_probe(
        history in prop::collection::vec((0_u64..6000, any_state(), prop::option::of(0_u8..3)), 1..40),
    ) {
        let (mut resolver, mut now) = wanting_one();
        let mut last = None;
        for (wait, state, mac) in history {
            now += Duration::from_millis(wait);
            resolver.probes(now);
            let mac = mac.map(|n| [2, 0, 0, 0, 0, n]);
            let before = resolver.hop(ip(9));
            let changed = resolver.heard(neighbour(9, mac, state), now);
            prop_assert_eq!(changed, before != resolver.hop(ip(9)));
            if believable(state) && mac.is_some() {
                last = mac;
            }
            let expected = last.map_or(Hop::Unknown, |mac| Hop::Known { ifindex: LINK, mac });
            prop_assert_eq!(resolver.hop(ip(9)), expected);
            let is_static = state == NeighbourState::Static && mac.is_some();
            prop_assert_eq!(resolver.next_due().is_none(), is_static);
            prop_assert!(resolver.next_due().is_none_or(|due| due <= now + seconds(5.0)));
        }
    }
}
