//! `cargo xtask run`: the Epic guide, running on this machine, in namespaces of its own.
//!
//! Owns: the order of events, Ctrl-C, and the exit code. The network is [`epiclb_tests::Lab`]'s, what is shown to
//! happen is `story`'s, and how it looks is `view`'s.

mod live;
mod story;
mod view;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Result, bail};
use clap::Parser;
use epiclb_tests::{Daemon, Lab, PATIENCE, fixtures, missing_prerequisites, sweep};
use tokio::signal::unix::{SignalKind, signal};
use view::{Report, step};

/// Lays a lab of network namespaces, runs epiclb in it on the reference configuration, and shows what it does.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask run", max_term_width = 100)]
struct Arguments {
    /// Show it once and exit with 0 or 1, instead of leaving the lab open until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// How many client addresses connect to each virtual service.
    #[arg(long, value_name = "N", default_value_t = story::CLIENTS, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    clients: u16,
    /// How XDP is attached: auto, native or generic.
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = ["auto", "native", "generic"])]
    xdp_mode: String,
}

/// Set once Ctrl-C has been taken: from then on errors are only the lab going away.
static ENDING: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let clean_exit = i32::from(arguments.once) * 130;
    let ended = end_on_signals(clean_exit).and_then(|()| run(&arguments));
    if ENDING.load(Ordering::SeqCst) {
        // The signal's thread is removing the lab, and ends the process when it has.
        loop {
            thread::park();
        }
    }
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            view::failed(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    if let Some(missing) = missing_prerequisites() {
        bail!("{missing}; `cargo xtask setup` installs what is missing, and root makes namespaces");
    }
    let started = Instant::now();
    let left_over = sweep();
    if left_over > 0 {
        view::note(&format!("removed {left_over} things that a killed lab had left behind"));
    }
    let lab = step("network namespaces, five nginx servers with TLS", Lab::epic)?;
    let daemon = step("epiclb run --config … on the reference configuration", || {
        lab.set_secret(fixtures::SECRET)?;
        let more = format!("xdp_mode = {:?}", arguments.xdp_mode);
        let config = lab.write_config(&lab.node_toml(&more), fixtures::SERVICES)?;
        Daemon::start(&lab, &config)
    })?;
    step("health checks see all five servers up", || daemon.wait_all_up(PATIENCE))?;
    let status = daemon.status()?;
    for interface in status["interfaces"].as_array().into_iter().flatten() {
        let (name, xdp) = (&interface["name"], &interface["xdp"]);
        view::line(&format!("lb1: XDP {} on {}", xdp.as_str().unwrap_or("?"), name.as_str().unwrap_or("?")));
    }

    let mut report = Report::default();
    let told = story::tell(&lab, &daemon, arguments.clients, &mut report);
    if let Err(error) = &told
        && !ENDING.load(Ordering::SeqCst)
    {
        report.check(false, &format!("the demonstration broke off: {error:#}"));
    }
    if !arguments.once {
        report.show(started.elapsed());
        live::show(&lab, &daemon, arguments.clients)?;
        return Ok(report.passed());
    }
    match daemon.stop() {
        Ok(status) => report.check(status.success(), &format!("epiclb stopped on SIGTERM with {status}")),
        Err(error) => report.check(false, &format!("epiclb did not stop on SIGTERM: {error:#}")),
    }
    report.show(started.elapsed());
    Ok(report.passed())
}

/// Gives the signals that end a lab to a thread that removes everything and exits. They are handled, not blocked:
/// children would inherit a blocked signal, and the daemon must hear its SIGTERM.
fn end_on_signals(code: i32) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        ENDING.store(true, Ordering::SeqCst);
        view::note("ending: removing namespaces, processes, pins and files");
        Lab::remove_by_prefix(&format!("epiclb-{}-", std::process::id()));
        std::process::exit(code);
    });
    Ok(())
}
