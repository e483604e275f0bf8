//! The `epiclb` binary: daemon and CLI in one.

use std::process::ExitCode;

fn main() -> ExitCode {
    epiclb::cli::main()
}
