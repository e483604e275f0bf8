//! `cargo xtask setup`: looks at what is there, installs what is missing, and says what could not be had.
//!
//! On Debian and its relatives it installs by apt (as root, or through sudo) and cargo; elsewhere it lists what to
//! install by hand. Nothing is installed that is there already, so a second run only looks.

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Result, bail};
use xtask::ebpf;

use crate::ui::{self, which};

/// What is about to be done, and so what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Building, and tests that need no root.
    Build,
    /// The lab as well.
    Lab,
}

/// The version the XDP program is built and tested with.
const BPF_LINKER: &str = "0.13.0";
/// The oldest LLVM that it can be built against.
const OLDEST_LLVM: u32 = 21;
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

struct Program {
    name: &'static str,
    package: &'static str,
    why: &'static str,
    /// Without it the lab does not work; the others are for a person who looks closer.
    needed: bool,
}

const PROGRAMS: [Program; 9] = [
    Program { name: "nginx", package: "nginx-light", why: "the lab's real servers", needed: true },
    Program { name: "curl", package: "curl", why: "the lab's clients", needed: true },
    Program { name: "openssl", package: "openssl", why: "certificates for the lab's servers", needed: true },
    Program { name: "ip", package: "iproute2", why: "network namespaces, links and routes", needed: true },
    Program { name: "nsenter", package: "util-linux", why: "running commands on the lab's hosts", needed: true },
    Program { name: "ethtool", package: "ethtool", why: "switching offloads off on the lab's wires", needed: true },
    Program { name: "nft", package: "nftables", why: "the VIP guard, and packet loss in the lab", needed: true },
    Program { name: "tcpdump", package: "tcpdump", why: "looking into the lab", needed: false },
    Program { name: "bpftool", package: "bpftool", why: "looking at programs and maps", needed: false },
];

/// The verb itself: all of it, in words.
pub(crate) fn verb() -> Result<ExitCode> {
    let started = Instant::now();
    ui::heading("What epiclb needs on this machine");
    let survey = Survey::take(Use::Lab);
    let missing = if survey.complete() {
        survey.show();
        Vec::new()
    } else {
        survey.show();
        survey.install();
        let after = Survey::take(Use::Lab);
        ui::heading("Now");
        after.show();
        after.missing()
    };
    if missing.is_empty() {
        ui::heading(&format!("Everything is there ({})", ui::seconds(started.elapsed())));
        return Ok(ExitCode::SUCCESS);
    }
    ui::heading("Could not be had");
    for line in &missing {
        ui::bad(line);
    }
    Ok(if fatal(&missing) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The same before another verb: one line where nothing is missing. Fails where the verb could not do its work: for
/// want of a compiler always, for want of anything else in CI.
pub(crate) fn ensure(what_for: Use) -> Result<()> {
    let started = Instant::now();
    let mut survey = Survey::take(what_for);
    survey.absent.retain(|program| program.needed);
    if survey.complete() {
        ui::good(&format!("set-up: everything is there ({})", ui::seconds(started.elapsed())));
        return Ok(());
    }
    ui::heading("Set-up");
    survey.show();
    survey.install();
    let after = Survey::take(what_for);
    let missing = after.missing();
    for line in &missing {
        ui::warn(&format!("MISSING: {line}"));
    }
    if after.compiler.is_err() || (fatal(&missing) && env::var_os("CI").is_some()) {
        bail!("cannot go on without what is missing above");
    }
    if fatal(&missing) {
        ui::warn("going on without it: whatever needs it will be skipped or fail");
    }
    Ok(())
}

/// Lines about optional things start with this.
const OPTIONAL: &str = "(optional) ";

fn fatal(missing: &[String]) -> bool {
    missing.iter().any(|line| !line.starts_with(OPTIONAL))
}

/// What is there and what is not.
struct Survey {
    what_for: Use,
    absent: Vec<&'static Program>,
    /// `None`: a prebuilt object is named, so no compiler is needed.
    compiler: Result<Option<ebpf::Compiler>, ebpf::NoCompiler>,
    /// What the kernel, or a lack of rights, stands in the way of.
    kernel: Vec<String>,
}

impl Survey {
    fn take(what_for: Use) -> Self {
        let prebuilt = env::var_os(ebpf::PREBUILT).is_some_and(|path| !path.is_empty());
        let lab = what_for == Use::Lab;
        let absent: Vec<&Program> = PROGRAMS.iter().filter(|program| lab && which(program.name).is_none()).collect();
        Self {
            what_for,
            compiler: if prebuilt { Ok(None) } else { ebpf::find().map(Some) },
            kernel: if lab { kernel_problems() } else { Vec::new() },
            absent,
        }
    }

    fn complete(&self) -> bool {
        self.absent.is_empty() && self.compiler.is_ok() && self.kernel.is_empty()
    }

    fn show(&self) {
        match &self.compiler {
            Ok(Some(compiler)) => ui::good(&format!("BPF compiler: {compiler}")),
            Ok(None) => ui::good(&format!("BPF compiler: not needed, {} names a prebuilt object", ebpf::PREBUILT)),
            Err(_) => ui::bad("BPF compiler: none found, and the XDP program is built from source"),
        }
        if self.what_for == Use::Build {
            return;
        }
        for program in &PROGRAMS {
            let line = format!("{}: {}", program.name, program.why);
            if !self.absent.iter().any(|absent| absent.name == program.name) {
                ui::good(&line);
            } else if program.needed {
                ui::bad(&line);
            } else {
                ui::warn(&line);
            }
        }
        if self.kernel.is_empty() {
            ui::good("kernel: namespaces, veth, bridge, nftables and bpffs");
        }
        for problem in &self.kernel {
            ui::bad(problem);
        }
    }

    /// Each thing that is missing, with the way to get it by hand.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if let Err(none) = &self.compiler {
            let tried: Vec<String> = none.tried.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
            missing.push(format!(
                "a BPF compiler ({}). By hand: `rustup toolchain install nightly --component rust-src` and `cargo \
                 install bpf-linker`; or set {} to a prebuilt object",
                tried.join("; "),
                ebpf::PREBUILT
            ));
        }
        for Program { name, package, why, needed } in self.absent.iter().copied() {
            let mark = if *needed { "" } else { OPTIONAL };
            missing.push(format!("{mark}{name}, for {why}. By hand: install the package {package} (Debian's name)"));
        }
        missing.extend(self.kernel.iter().cloned());
        missing
    }

    /// Does what can be done; what could not be had shows in the next survey.
    fn install(&self) {
        ui::heading("Installing what is missing");
        let mut apt = Apt::new();
        if self.compiler.is_err() {
            install_compiler(&mut apt);
        }
        let had_nginx = which("nginx").is_some();
        let packages: Vec<&str> = self.absent.iter().map(|program| program.package).collect();
        apt.install(&packages);
        // sd_booted(3): without systemd nothing has been started.
        if !had_nginx && which("nginx").is_some() && Path::new("/run/systemd/system").is_dir() {
            // The package starts a server on port 80 of this machine, which nobody asked for.
            let mut disable = ui::as_root(Path::new("systemctl"), &[]);
            let _ = ui::task("switching nginx's own service off", disable.args(["disable", "--now", "nginx"]));
        }
    }
}

/// apt-get, as root or through sudo; its lists are updated at most once.
struct Apt {
    usable: bool,
    updated: bool,
}

impl Apt {
    fn new() -> Self {
        let privileged = ui::is_root() || which("sudo").is_some();
        let usable = which("apt-get").is_some() && privileged;
        if which("apt-get").is_none() {
            ui::warn("no apt-get here, so packages are for you to install; see below");
        } else if !privileged {
            ui::warn("neither root nor sudo, so packages are for you to install; see below");
        }
        Self { usable, updated: false }
    }

    /// Installs those of the packages that can be had; whether that was all.
    fn install(&mut self, packages: &[&str]) -> bool {
        if packages.is_empty() {
            return true;
        }
        if !self.usable {
            return false;
        }
        // Lists may be absent, as in a fresh container, or old, and then name a compiler that is too old too.
        self.update();
        let known = self.known(packages);
        if !self.get(&known) {
            return false;
        }
        known.len() == packages.len()
    }

    fn known<'p>(&self, packages: &[&'p str]) -> Vec<&'p str> {
        packages.iter().copied().filter(|package| quiet(Command::new("apt-cache").args(["show", package]))).collect()
    }

    fn update(&mut self) {
        if !std::mem::replace(&mut self.updated, true) {
            let _ = ui::task("apt-get update", ui::as_root(Path::new("apt-get"), &[]).arg("update"));
        }
    }

    fn get(&self, packages: &[&str]) -> bool {
        if packages.is_empty() {
            return true;
        }
        let mut command = ui::as_root(Path::new("apt-get"), &[("DEBIAN_FRONTEND", "noninteractive".as_ref())]);
        command.args(["install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]).args(packages);
        ui::task(&format!("apt-get install {}", packages.join(" ")), &mut command).is_ok()
    }
}

/// The three ways to a BPF compiler, the cheapest first: only the linker is missing; Debian's packages; rustup.
fn install_compiler(apt: &mut Apt) {
    let found = || ebpf::find().is_ok();
    let nightly = rustup_nightly_has_sources();
    if nightly && which("bpf-linker").is_none() && install_linker(None) && found() {
        return;
    }
    if apt.install(&["rustc-web", "rust-web-src"])
        && let Some(llvm) = llvm_of(DEBIAN_RUSTC)
        && llvm >= OLDEST_LLVM
        && apt.install(&[&format!("llvm-{llvm}-dev")])
        && (found() || (install_linker(Some(llvm)) && found()))
    {
        return;
    }
    if which("rustup").is_some() && !nightly {
        let mut command = Command::new("rustup");
        command.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
        if ui::task("rustup toolchain install nightly, with rust-src", &mut command).is_ok() && !found() {
            install_linker(None);
        }
    }
}

/// `cargo install bpf-linker`, against Debian's LLVM of this major version or, without one, as it is released.
fn install_linker(llvm: Option<u32>) -> bool {
    let mut command = ui::cargo();
    command.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"]);
    let mut what = format!("cargo install bpf-linker {BPF_LINKER}");
    if let Some(llvm) = llvm {
        // One is there already if we come here with it, and it cannot read what this compiler writes.
        command.arg("--force").env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
        command.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        what.push_str(&format!(" against LLVM {llvm}"));
    }
    ui::task(&what, &mut command).is_ok()
}

fn rustup_nightly_has_sources() -> bool {
    let mut rustc = Command::new("rustc");
    let output = rustc.args(["+nightly", "--print", "sysroot"]).env("RUSTUP_AUTO_INSTALL", "0").output();
    output.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout);
        output.status.success() && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir()
    })
}

/// The major version of the LLVM inside a compiler.
fn llvm_of(rustc: &str) -> Option<u32> {
    let output = Command::new(rustc).arg("-vV").output().ok()?;
    llvm_major(&String::from_utf8_lossy(&output.stdout))
}

fn llvm_major(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// Tries, in a namespace that is gone at once, what the lab will need.
fn kernel_problems() -> Vec<String> {
    let mut problems = Vec::new();
    if !fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.lines().any(|line| line.ends_with("\tbpf"))) {
        problems.push("kernel: no bpffs (CONFIG_BPF_SYSCALL), so nothing can be pinned".to_owned());
    }
    if !ui::is_root() {
        if which("sudo").is_none() {
            problems
                .push("rights: the lab makes network namespaces, and you are neither root nor is there sudo".into());
        }
        return problems;
    }
    if which("ip").is_none() || which("unshare").is_none() {
        return problems; // The missing program is in the list already.
    }
    let within = |line: &str| quiet(Command::new("unshare").args(["--net", "sh", "-c", line]));
    if !within("true") {
        problems.push("kernel: no network namespaces, or no right to make one (a container needs --privileged)".into());
        return problems;
    }
    for (line, name) in [
        ("ip link add v0 type veth peer name v1", "veth (CONFIG_VETH), the lab's wires"),
        ("ip link add b0 type bridge", "bridge (CONFIG_BRIDGE), the lab's switch"),
    ] {
        if !within(line) {
            problems.push(format!("kernel: no {name}"));
        }
    }
    if which("nft").is_some() && !within("nft add table inet t") {
        problems.push("kernel: no nftables (CONFIG_NF_TABLES_INET), which guard the VIPs".into());
    }
    problems
}

fn quiet(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_inside_a_compiler_is_read_from_its_version() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn optional_things_never_stop_anyone() {
        let survey = |absent| Survey { what_for: Use::Lab, absent, compiler: Ok(None), kernel: Vec::new() };
        let program = |name: &str| PROGRAMS.iter().find(|program| program.name == name).unwrap();
        assert!(survey(Vec::new()).complete());
        assert!(!fatal(&survey(vec![program("tcpdump")]).missing()));
        assert!(fatal(&survey(vec![program("tcpdump"), program("nginx")]).missing()));
    }

    #[test]
    fn what_is_missing_comes_with_its_package_and_its_reason() {
        let nginx = PROGRAMS.iter().find(|program| program.name == "nginx").unwrap();
        let tried = vec![("rustup nightly".to_owned(), "has no library sources".to_owned())];
        let survey = Survey {
            what_for: Use::Lab,
            absent: vec![nginx],
            compiler: Err(ebpf::NoCompiler { tried }),
            kernel: vec!["kernel: no veth".into()],
        };
        let text = survey.missing().join("\n");
        for expected in ["rustup nightly: has no library sources", "nginx-light", "real servers", "kernel: no veth"] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
