//! Frames that were sound until something happened to them: 200,000 of them, the same at every run.

use epiclb_common::{
    Verdict,
    hash::{Seed, siphash},
};

use crate::{
    frame::Sums,
    malformed::golden,
    world::{World, action, assert_only_nat},
};

const ROUNDS: u64 = 20;
const FRAMES: u64 = 10_000;

/// Numbers that are the same at every run.
struct Dice {
    rolls: u64,
}

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.rolls += 1;
        (siphash(Seed(3, 5), [self.rolls]) % below as u64) as usize
    }

    /// Does something to a frame.
    fn bend(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..=self.roll(3) {
            let at = self.roll(frame.len());
            match self.roll(8) {
                0 => frame.truncate(at.max(14)),
                1 => frame.extend(std::iter::repeat_n(at as u8, at)),
                // The headers of IP and TCP, where it matters.
                2 | 3 => {
                    let at = 12 + self.roll((frame.len() - 12).min(60));
                    frame[at] ^= 1 << self.roll(8);
                }
                4 => frame[at] = [0, 1, 0x7f, 0x80, 0xff][self.roll(5)],
                5 => {
                    // A two-byte field at the edge of its range.
                    let at = (14 + self.roll(frame.len().saturating_sub(14).max(1))).min(frame.len() - 2);
                    let value = [0_u16, 1, 19, 20, 21, 0x7fff, 0x8000, 0xffff][self.roll(8)];
                    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
                }
                6 => {
                    let other = self.roll(frame.len());
                    frame.swap(at, other);
                }
                _ => frame[at] ^= 1 << self.roll(8),
            }
        }
    }
}

#[test]
fn whatever_happens_to_a_frame_it_passes_untouched_is_dropped_or_leaves_sound() {
    let Some(mut world) = World::new() else { return };
    let mut dice = Dice { rolls: 0 };
    let mut seen = [0_u64; 5];
    for round in 0..ROUNDS {
        let golden = golden(&mut world, round as u8);
        for _ in 0..FRAMES {
            let mut input = golden[dice.roll(golden.len())].1.clone();
            dice.bend(&mut input);
            let (action, output) = world.run(&input);
            seen[action as usize] += 1;
            match action {
                action::PASS => assert_eq!(input, output, "what passes is not touched"),
                action::DROP => {}
                action::TX => sound(&input, &output),
                other => panic!("action {other} for {input:02x?}"),
            }
        }
    }
    assert!(seen[1..4].iter().all(|count| *count > ROUNDS * FRAMES / 50), "all three in numbers: {seen:?}");
    assert_eq!(world.verdict(Verdict::DropInternal), 0);
    let reached = Verdict::ALL.iter().filter(|verdict| world.verdict(**verdict) > 0).count();
    assert!(reached >= 18, "{reached} verdicts of {}", Verdict::COUNT);
}

fn sound(input: &[u8], output: &[u8]) {
    if Sums::of(input).is_some_and(|sums| sums.are_right()) {
        let sums = Sums::of(output).expect("what is forwarded is whole");
        assert!(sums.are_right(), "{sums:?}: {input:02x?} became {output:02x?}");
    }
    if output[..6] == input[6..12] && output[6..12] == input[..6] {
        // Sent back: a RST, which is all headers.
        assert!([54, 74].contains(&output.len()), "{output:02x?}");
        assert!(Sums::of(output).is_some_and(|sums| sums.are_right()), "{output:02x?}");
    } else {
        assert_only_nat(input, output);
    }
}
