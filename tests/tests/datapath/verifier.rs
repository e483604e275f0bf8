//! What the kernel's verifier thinks of the program.

use crate::world::World;

#[test]
fn the_program_is_far_from_the_verifiers_limit() {
    let Some(world) = World::new() else { return };
    let looked_at = world.bpf.program().unwrap().info().unwrap().verified_instruction_count().unwrap();
    // BPF_COMPLEXITY_LIMIT_INSNS (kernel/bpf/verifier.c) is a million. Older kernels prune worse: half of it is the most
    // we take.
    assert!(looked_at < 500_000, "{looked_at} instructions looked at");
}
