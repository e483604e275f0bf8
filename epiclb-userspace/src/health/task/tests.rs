//! With paused time and invented servers, but for the last test.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use super::*;

fn name(number: u16) -> RipName {
    RipName { vip: "Hyperspace".into(), rip: format!("srv{number:05}") }
}

/// Its number is its port: the invented servers are told apart by it.
fn spec(number: u16) -> Spec {
    Spec { address: SocketAddr::new([192, 0, 2, 1].into(), number), source: None, check: Check::default() }
}

fn specs(numbers: impl IntoIterator<Item = u16>) -> BTreeMap<RipName, Spec> {
    numbers.into_iter().map(|number| (name(number), spec(number))).collect()
}

/// Servers that do as the test says, and remember when they were probed.
#[derive(Clone, Default)]
struct Servers(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    refusing: BTreeSet<u16>,
    latency: Duration,
    descriptors_ran_out: bool,
    probes: Vec<(Instant, u16)>,
    under_way: usize,
    most_under_way: usize,
}

impl Servers {
    fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    fn start(&self, adopted: BTreeMap<RipName, Health>) -> (HealthChecks, mpsc::Receiver<Event>) {
        let servers = self.clone();
        HealthChecks::start_with(move |spec| Box::pin(servers.clone().probe(spec.address.port())), adopted)
    }

    async fn probe(self, number: u16) -> ProbeResult {
        let latency = self.with(|world| {
            world.probes.push((Instant::now(), number));
            world.under_way += 1;
            world.most_under_way = world.most_under_way.max(world.under_way);
            world.latency
        });
        sleep(latency).await;
        self.with(|world| {
            world.under_way -= 1;
            if world.descriptors_ran_out {
                ProbeResult::Inconclusive { reason: "too many open files".into() }
            } else if world.refusing.contains(&number) {
                ProbeResult::Failure { reason: "connection refused".into() }
            } else {
                ProbeResult::Success { latency }
            }
        })
    }

    fn probed(&self, number: u16) -> usize {
        self.with(|world| world.probes.iter().filter(|(_, probed)| *probed == number).count())
    }
}

/// What a reader of the events knows.
#[derive(Default)]
struct Known(BTreeMap<RipName, Health>);

impl Known {
    fn read(&mut self, events: &mut mpsc::Receiver<Event>) {
        while let Ok(event) = events.try_recv() {
            self.0.insert(event.rip, event.health);
        }
    }
}

fn healths(states: &BTreeMap<RipName, State>) -> BTreeMap<RipName, Health> {
    states.iter().map(|(rip, state)| (rip.clone(), state.health)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_living_rip_is_up_after_rise_probes_and_says_so_once() {
    let servers = Servers::default();
    servers.with(|world| world.latency = Duration::from_millis(3));
    let (checks, mut events) = servers.start(BTreeMap::new());
    let start = Instant::now();
    checks.reconcile(specs([1])).await.unwrap();
    assert_eq!(checks.snapshot().await.unwrap()[&name(1)].health, Health::Unknown);

    let event = events.recv().await.unwrap();
    assert_eq!(event.rip, name(1));
    assert_eq!((event.health, event.reason.as_str()), (Health::Up, "answered"));
    assert_eq!(event.latency, Some(Duration::from_millis(3)));
    assert!(start.elapsed() < Duration::from_millis(1300), "{:?}", start.elapsed());
    assert!(timeout(Duration::from_secs(60), events.recv()).await.is_err(), "nothing more happens");

    let state = &checks.snapshot().await.unwrap()[&name(1)];
    assert_eq!(
        (state.health, state.failures, state.since - start < Duration::from_millis(1300)),
        (Health::Up, 0, true)
    );
    assert!(state.successes > 20 && state.probed.unwrap().elapsed() < Duration::from_millis(2300), "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rip_that_dies_is_down_within_an_interval_and_two_confirmations() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    checks.reconcile(specs([1])).await.unwrap();
    events.recv().await.unwrap();
    for _ in 0..20 {
        sleep(Duration::from_millis(4321)).await;
        servers.with(|world| world.refusing.insert(1));
        let died = Instant::now();
        let event = events.recv().await.unwrap();
        assert_eq!((event.health, event.reason.as_str(), event.latency), (Health::Down, "connection refused", None));
        assert!(died.elapsed() < Duration::from_millis(2200 + 2 * 275 + 10), "{:?}", died.elapsed());

        servers.with(|world| world.refusing.remove(&1));
        let back = Instant::now();
        assert_eq!(events.recv().await.unwrap().health, Health::Up);
        assert!(back.elapsed() < Duration::from_millis(2200 + 275 + 10), "{:?}", back.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_failure_changes_nothing() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    checks.reconcile(specs([1])).await.unwrap();
    events.recv().await.unwrap();
    sleep(Duration::from_secs(10)).await;
    servers.with(|world| world.refusing.insert(1));
    let before = servers.probed(1);
    while servers.probed(1) == before {
        sleep(Duration::from_millis(10)).await;
    }
    servers.with(|world| world.refusing.remove(&1));
    assert!(timeout(Duration::from_secs(60), events.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn five_thousand_checks_start_within_a_second_or_so_and_never_exceed_the_cap() {
    let servers = Servers::default();
    servers.with(|world| world.latency = Duration::from_millis(20));
    let (checks, mut events) = servers.start(BTreeMap::new());
    let start = Instant::now();
    checks.reconcile(specs(1..=5000)).await.unwrap();
    let mut up = BTreeSet::new();
    while up.len() < 5000 {
        let event = events.recv().await.unwrap();
        assert_eq!(event.health, Health::Up);
        assert!(up.insert(event.rip), "once each");
    }
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
    sleep(Duration::from_secs(20) - start.elapsed()).await;
    servers.with(|world| {
        assert!(world.most_under_way <= MAX_PROBES, "{}", world.most_under_way);
        let mut counts = BTreeMap::<u16, usize>::new();
        for (_, number) in &world.probes {
            *counts.entry(*number).or_default() += 1;
        }
        assert_eq!(counts.len(), 5000);
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        assert!(*least >= 9 && *most <= 14, "in 20 s every 2 s, and one to confirm: {least} to {most}");
    });
}

#[tokio::test(start_paused = true)]
async fn settled_checks_are_spread_evenly_over_the_interval() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    let interval = Duration::from_secs(30);
    let slow = specs(1..=3000)
        .into_iter()
        .map(|(rip, spec)| (rip, Spec { check: Check { interval, ..Check::default() }, ..spec }));
    checks.reconcile(slow.collect()).await.unwrap();
    for _ in 0..3000 {
        events.recv().await.unwrap();
    }
    sleep(2 * interval).await;
    let from = Instant::now();
    sleep(interval).await;
    let mut per_second = [0; 30];
    servers.with(|world| {
        for (started, _) in world.probes.iter().filter(|(started, _)| *started >= from) {
            let second = (*started - from).as_secs() as usize;
            per_second[second.min(29)] += 1;
        }
    });
    assert!(per_second.iter().all(|probes| (50..=170).contains(probes)), "100 each, give or take: {per_second:?}");
}

#[tokio::test(start_paused = true)]
async fn silent_rips_delay_the_others_only_when_they_fill_the_cap() {
    let servers = Servers::default();
    servers.with(|world| world.latency = Duration::from_secs(1));
    let (checks, mut events) = servers.start(BTreeMap::new());
    let start = Instant::now();
    checks.reconcile(specs(1..=1000)).await.unwrap();
    // 2 rounds of 1,000 probes of 1 s each, 256 at a time.
    for _ in 0..1000 {
        assert_eq!(events.recv().await.unwrap().health, Health::Up);
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(servers.with(|world| world.most_under_way), MAX_PROBES);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_falls_behind_still_learns_the_last_state_of_every_rip() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    checks.reconcile(specs(1..=1000)).await.unwrap();
    for round in 0..5 {
        sleep(Duration::from_secs(10)).await;
        servers.with(|world| world.refusing = (1..=1000).filter(|number| number % 5 == round).collect());
    }
    sleep(Duration::from_secs(10)).await;
    let mut known = Known::default();
    // The channel is full, and refills from the actor as it is read.
    for _ in 0..10 {
        known.read(&mut events);
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(known.0, healths(&checks.snapshot().await.unwrap()));
    assert_eq!(known.0.values().filter(|health| **health == Health::Down).count(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_probe_takes_nobody_down() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    checks.reconcile(specs([1, 2])).await.unwrap();
    for _ in 0..2 {
        events.recv().await.unwrap();
    }
    servers.with(|world| world.descriptors_ran_out = true);
    assert!(timeout(Duration::from_secs(300), events.recv()).await.is_err());
    let state = &checks.snapshot().await.unwrap()[&name(1)];
    assert_eq!((state.health, state.reason.as_str()), (Health::Up, "cannot be probed: too many open files"));
}

#[tokio::test(start_paused = true)]
async fn a_reload_leaves_alone_what_it_does_not_change() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    checks.reconcile(specs([1, 2])).await.unwrap();
    for _ in 0..2 {
        events.recv().await.unwrap();
    }
    let before = checks.snapshot().await.unwrap();
    checks.reconcile(specs([1, 3])).await.unwrap();
    let after = checks.snapshot().await.unwrap();
    assert_eq!(after[&name(1)], before[&name(1)], "kept with its history");
    assert_eq!(after[&name(3)].health, Health::Unknown, "new");
    assert!(!after.contains_key(&name(2)), "gone");
    assert_eq!(events.recv().await.unwrap().rip, name(3), "only the new one has news");
    let probed = servers.probed(2);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(servers.probed(2), probed, "what is gone is probed no more");
    assert!(servers.probed(1) > 25, "what is kept goes on");
}

#[tokio::test(start_paused = true)]
async fn new_check_settings_keep_the_health_and_a_new_address_does_not() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    checks.reconcile(specs([1])).await.unwrap();
    events.recv().await.unwrap();
    let since = checks.snapshot().await.unwrap()[&name(1)].since;
    sleep(Duration::from_secs(10)).await;

    let check = Check { fall: 1, ..Check::default() };
    checks.reconcile(BTreeMap::from([(name(1), Spec { check: check.clone(), ..spec(1) })])).await.unwrap();
    let state = &checks.snapshot().await.unwrap()[&name(1)];
    assert_eq!((state.health, state.since, state.successes), (Health::Up, since, 0));
    servers.with(|world| world.refusing.insert(1));
    assert_eq!(events.recv().await.unwrap().health, Health::Down);
    assert_eq!(checks.snapshot().await.unwrap()[&name(1)].failures, 1, "the new fall holds");
    servers.with(|world| world.refusing.remove(&1));
    assert_eq!(events.recv().await.unwrap().health, Health::Up);

    checks.reconcile(BTreeMap::from([(name(1), Spec { check, ..spec(7) })])).await.unwrap();
    let event = events.recv().await.unwrap();
    assert_eq!((event.health, event.address.port()), (Health::Unknown, 7));
    assert_eq!(event.reason, "its address has changed");
    assert_eq!(events.recv().await.unwrap().health, Health::Up);
}

#[tokio::test(start_paused = true)]
async fn the_late_result_of_a_former_address_does_not_count() {
    let servers = Servers::default();
    servers.with(|world| {
        world.latency = Duration::from_secs(30);
        world.refusing.insert(1);
    });
    let (checks, mut events) = servers.start(BTreeMap::new());
    checks.reconcile(specs([1])).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    servers.with(|world| world.latency = Duration::ZERO);
    let check = Check { fall: 1, ..Check::default() };
    checks.reconcile(BTreeMap::from([(name(1), Spec { check, ..spec(2) })])).await.unwrap();
    assert_eq!(events.recv().await.unwrap().health, Health::Up);
    assert!(timeout(Duration::from_secs(60), events.recv()).await.is_err(), "the refusal comes late and is dropped");
}

#[tokio::test(start_paused = true)]
async fn many_reloads_in_a_row_do_not_multiply_the_probes() {
    let servers = Servers::default();
    let (checks, _events) = servers.start(BTreeMap::new());
    for fall in 1..=100 {
        let check = Check { fall, ..Check::default() };
        checks.reconcile(BTreeMap::from([(name(1), Spec { check, ..spec(1) })])).await.unwrap();
    }
    sleep(Duration::from_secs(1)).await;
    assert!((1..=4).contains(&servers.probed(1)), "{}", servers.probed(1));
}

#[tokio::test(start_paused = true)]
async fn events_of_what_is_gone_do_not_wait_for_the_reader() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    checks.reconcile(specs(1..=1000)).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    checks.reconcile(BTreeMap::new()).await.unwrap();
    let mut read = 0;
    while timeout(Duration::from_secs(1), events.recv()).await.is_ok() {
        read += 1;
    }
    assert_eq!(read, EVENTS, "only what was in the channel");
}

#[tokio::test(start_paused = true)]
async fn adopted_health_holds_until_the_probes_say_otherwise() {
    let servers = Servers::default();
    servers.with(|world| world.refusing.insert(2));
    let adopted = BTreeMap::from([(name(1), Health::Up), (name(2), Health::Up), (name(3), Health::Up)]);
    let (checks, mut events) = servers.start(adopted);
    checks.reconcile(specs([1, 2])).await.unwrap();
    let states = checks.snapshot().await.unwrap();
    assert!(states.values().all(|state| state.health == Health::Up), "at once and without an event");
    let event = events.recv().await.unwrap();
    assert_eq!((event.rip, event.health), (name(2), Health::Down));
    assert_eq!(servers.probed(2), 3, "after fall failures, not after the first");
    checks.reconcile(specs([1, 2, 3])).await.unwrap();
    let state = &checks.snapshot().await.unwrap()[&name(3)];
    assert_eq!(state.health, Health::Unknown, "too late to be adopted");
}

#[tokio::test(start_paused = true)]
async fn a_rip_without_a_check_is_up_at_once_and_never_probed() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    let unchecked = Spec { check: Check { kind: CheckKind::None, ..Check::default() }, ..spec(1) };
    checks.reconcile(BTreeMap::from([(name(1), unchecked)])).await.unwrap();
    let event = events.recv().await.unwrap();
    assert_eq!((event.health, event.reason.as_str()), (Health::Up, "not checked"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(servers.probed(1), 0);

    servers.with(|world| world.refusing.insert(1));
    checks.reconcile(specs([1])).await.unwrap();
    let event = events.recv().await.unwrap();
    assert_eq!((event.health, servers.probed(1)), (Health::Down, 3), "with a check it has to fail like any other");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_checks_ends_the_probes() {
    let servers = Servers::default();
    let (checks, mut events) = servers.start(BTreeMap::new());
    checks.reconcile(specs([1])).await.unwrap();
    events.recv().await.unwrap();
    drop(checks);
    assert_eq!(events.recv().await, None);
    let probed = servers.probed(1);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(servers.probed(1), probed);
}

#[tokio::test(start_paused = true)]
async fn checks_whose_probe_panics_end_visibly() {
    let (checks, mut events) = HealthChecks::start_with(|_| Box::pin(async { panic!("a bug") }), BTreeMap::new());
    checks.reconcile(specs([1])).await.unwrap();
    assert_eq!(events.recv().await, None);
    assert_eq!(checks.snapshot().await, Err(Stopped));
}

#[tokio::test]
async fn a_real_server_comes_goes_and_comes_back() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let (checks, mut events) = HealthChecks::start(BTreeMap::new());
    // Every result comes at once; the long timeout keeps a machine that stalls from looking like a server that does.
    let check = Check { interval: Duration::from_millis(20), timeout: Duration::from_secs(10), ..Check::default() };
    checks.reconcile(BTreeMap::from([(name(1), Spec { address, source: None, check })])).await.unwrap();
    assert_eq!(events.recv().await.unwrap().health, Health::Up);
    drop(server);
    let event = events.recv().await.unwrap();
    assert_eq!((event.health, event.reason.as_str()), (Health::Down, "connection refused"));
    let _server = TcpListener::bind(address).await.unwrap();
    assert_eq!(events.recv().await.unwrap().health, Health::Up);
}
