use proptest::prelude::*;

use super::*;

fn ok() -> ProbeResult {
    ProbeResult::Success { latency: Duration::from_millis(1) }
}

fn failed() -> ProbeResult {
    ProbeResult::Failure { reason: "connection refused".into() }
}

fn unclear() -> ProbeResult {
    ProbeResult::Inconclusive { reason: "out of file descriptors".into() }
}

fn check(rise: u32, fall: u32) -> Check {
    Check { rise, fall, ..Check::default() }
}

/// Health after each of `results`: `+` is a success, `-` a failure, `?` inconclusive.
fn history(mut checker: Checker, results: &str) -> String {
    let seen = results.chars().map(|result| {
        let before = checker.health();
        let transition = checker.observe(&match result {
            '+' => ok(),
            '-' => failed(),
            _ => unclear(),
        });
        let after = checker.health();
        assert_eq!(transition, (before != after).then_some(Transition { from: before, to: after }));
        match after {
            Health::Unknown => '.',
            Health::Up => 'U',
            Health::Down => 'D',
        }
    });
    seen.collect()
}

#[test]
fn verdicts_follow_results_in_a_row() {
    for (sentence, rise, fall, results, expected) in [
        ("up after rise successes", 2, 3, "++", ".U"),
        ("down after the first failure of all", 2, 3, "-", "D"),
        ("down after a failure that comes before the first verdict", 3, 3, "++-+++", "..DDDU"),
        ("down after fall failures", 2, 3, "++---", ".UUUD"),
        ("a success forgets failures", 2, 3, "++--+--+", ".UUUUUUU"),
        ("up again after rise successes", 2, 3, "++---++", ".UUUDDU"),
        ("a failure forgets successes", 2, 3, "-+-+-+", "DDDDDD"),
        ("rise 1 and fall 1 follow every result", 1, 1, "+-+-", "UDUD"),
        ("an inconclusive result changes nothing", 2, 3, "?+?+?-?-?-?", "...UUUUUUDD"),
        ("one alone never brings a verdict", 1, 1, "???", "..."),
    ] {
        assert_eq!(history(Checker::new(&check(rise, fall)), results), expected, "{sentence}");
    }
}

#[test]
fn a_resumed_verdict_needs_as_much_to_change_as_any_other() {
    assert_eq!(history(Checker::resume(&check(2, 3), Health::Up), "--+---"), "UUUUUD");
    assert_eq!(history(Checker::resume(&check(2, 3), Health::Down), "+-++"), "DDDU");
}

#[test]
fn without_a_check_a_rip_is_up_at_once() {
    let none = Check { kind: CheckKind::None, ..Check::default() };
    assert_eq!(Checker::new(&none).health(), Health::Up);
    assert_eq!(Checker::resume(&none, Health::Down).health(), Health::Up);
}

#[test]
fn probes_come_faster_while_a_verdict_is_forming() {
    let mut checker = Checker::new(&check(2, 3));
    let delays: Vec<_> = [ok(), ok(), failed(), ok(), failed(), failed(), failed(), failed(), ok(), ok()]
        .iter()
        .map(|result| {
            checker.observe(result);
            checker.next_delay(0.0).as_millis()
        })
        .collect();
    assert_eq!(delays, [250, 2000, 250, 2000, 250, 250, 2000, 2000, 250, 2000]);
    assert_eq!(Checker::new(&check(2, 3)).next_delay(0.0), CONFIRM_INTERVAL);
    let quick = Check { interval: Duration::from_millis(100), ..Check::default() };
    assert_eq!(Checker::new(&quick).next_delay(0.0), quick.interval, "never slower than the interval");
}

fn results() -> impl Strategy<Value = String> {
    "[+?-]{0,60}"
}

proptest! {
    #[test]
    fn health_is_what_the_last_run_of_results_says(rise in 1..6u32, fall in 1..6u32, results in results()) {
        // The same rule, written from the end of the history instead of its start.
        let seen = history(Checker::new(&check(rise, fall)), &results);
        let conclusive: String = results.chars().filter(|&result| result != '?').collect();
        let run = |sign| conclusive.chars().rev().take_while(|&result| result == sign).count() as u32;
        match seen.chars().last() {
            _ if run('+') >= rise => prop_assert!(seen.ends_with('U')),
            _ if run('-') >= fall => prop_assert!(seen.ends_with('D')),
            Some('.') => prop_assert!(!conclusive.contains('-'), "a failure ends the not knowing"),
            Some('U') => prop_assert!(conclusive.contains(&"+".repeat(rise as usize))),
            Some(_) => prop_assert!(conclusive.contains('-')),
            None => {}
        }
    }

    #[test]
    fn nobody_becomes_unknown_again_and_nobody_is_up_without_rise_successes(
        rise in 1..6u32, fall in 1..6u32, results in results()
    ) {
        let seen = history(Checker::new(&check(rise, fall)), &results);
        prop_assert!(!seen.trim_start_matches('.').contains('.'));
        if let Some(first_up) = seen.find('U') {
            let before: String = results[..=first_up].chars().filter(|&result| result != '?').collect();
            prop_assert!(before.ends_with(&"+".repeat(rise as usize)));
        }
    }

    #[test]
    fn a_delay_stays_within_a_tenth_of_its_nominal_value(
        millis in 1..600_000u64, jitter in -2.0..2.0f64, results in results()
    ) {
        let check = Check { interval: Duration::from_millis(millis), ..Check::default() };
        let mut checker = Checker::new(&check);
        for result in results.chars() {
            checker.observe(&if result == '+' { ok() } else { failed() });
        }
        let nominal = checker.next_delay(0.0).as_secs_f64();
        let delay = checker.next_delay(jitter).as_secs_f64();
        prop_assert!((nominal * 0.899..=nominal * 1.101).contains(&delay), "{delay} of {nominal}");
        prop_assert!(nominal <= check.interval.as_secs_f64() + 1e-9);
    }
}
