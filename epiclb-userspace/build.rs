//! Puts the XDP object at `$OUT_DIR/epiclb-xdp`, where the daemon includes it from.

use std::{env, path::PathBuf};

fn main() {
    for input in xtask::ebpf::inputs() {
        println!("cargo::rerun-if-changed={}", input.display());
    }
    println!("cargo::rerun-if-env-changed={}", xtask::ebpf::PREBUILT);

    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(error) = xtask::ebpf::build(&out_dir) {
        // cargo fails the build because of these lines; an exit code of our own would only add noise.
        for line in format!("{error:#}").lines() {
            println!("cargo::error={line}");
        }
    }
}
