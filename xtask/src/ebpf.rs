//! Finds a compiler that can write BPF and builds the XDP program with it.
//!
//! Owns: the one discovery routine that `build.rs` and `cargo xtask setup` share, and the command line of the nested
//! cargo. Deliberately knows nothing of what the program does, and installs nothing.
//!
//! Two worlds are supported: rustup's nightly with `rust-src` and a released `bpf-linker`, and Debian's
//! `rustc-web` + `rust-web-src` with a `bpf-linker` built against Debian's LLVM. They are told apart by trying:
//! a compiler counts only if `bpf-linker` reads what it writes, since a compiler with a newer LLVM than the linker's
//! fails late and obscurely ("Invalid record").

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Names a prebuilt object; with it no BPF compiler is needed.
pub const PREBUILT: &str = "EPICLB_BPF_OBJECT";

const PACKAGE: &str = "epiclb-ebpf";
const BIN: &str = "epiclb-xdp";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A compiler whose output `bpf-linker` was seen to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// What a person calls it: "rustup nightly-x86_64-unknown-linux-gnu".
    pub name: String,
    /// The compiler itself, never a rustup proxy.
    pub rustc: PathBuf,
    /// The cargo that drives it.
    pub cargo: PathBuf,
    /// The linker that was probed with it.
    pub linker: PathBuf,
}

/// Why no compiler was found: every candidate with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoCompiler {
    /// Candidate and reason, in the order tried.
    pub tried: Vec<(String, String)>,
}

impl fmt::Display for NoCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no compiler on this machine can build the XDP program. Tried:")?;
        for (name, reason) in &self.tried {
            writeln!(f, "  - {name}: {reason}")?;
        }
        writeln!(f, "Remedy: `cargo xtask setup` installs what is missing;")?;
        write!(f, "or set {PREBUILT}=/path/to/{BIN} to use a prebuilt object.")
    }
}

impl std::error::Error for NoCompiler {}

/// Builds the XDP program below `out_dir` and returns the path of the object, `out_dir/epiclb-xdp`.
///
/// `EPICLB_BPF_OBJECT` in the environment is copied there instead (a relative path counts from the workspace).
/// Errors are meant for a person: what was tried, why it failed, what to do.
pub fn build(out_dir: &Path) -> Result<PathBuf> {
    let object = out_dir.join(BIN);
    if let Some(prebuilt) = env::var_os(PREBUILT).filter(|v| !v.is_empty()) {
        let prebuilt = workspace().join(prebuilt);
        let bytes = fs::read(&prebuilt).with_context(|| format!("{PREBUILT}: cannot read {}", prebuilt.display()))?;
        check_elf(&bytes).with_context(|| format!("{PREBUILT}: {} is no BPF object", prebuilt.display()))?;
        fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))?;
        return Ok(object);
    }
    fs::create_dir_all(out_dir).with_context(|| format!("cannot create {}", out_dir.display()))?;
    let built = compile(&find()?, &shared(out_dir))?;
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    check_elf(&bytes).with_context(|| built.display().to_string())?;
    fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))?;
    Ok(object)
}

/// The first compiler that works, the preferred ones first: rustup's nightlies, rustup's others, the system's.
pub fn find() -> Result<Compiler, NoCompiler> {
    let mut none = NoCompiler::default();
    let linkers = linkers();
    if linkers.is_empty() {
        none.tried.push(("bpf-linker".into(), "not on PATH and not in cargo's bin folder".into()));
    }
    for Candidate { name, rustc, cargo } in candidates() {
        match probe(&rustc, &linkers) {
            Ok(linker) => return Ok(Compiler { name, rustc, cargo, linker }),
            Err(reason) => none.tried.push((name, format!("{reason:#}"))),
        }
    }
    if none.tried.is_empty() {
        none.tried.push(("rustc".into(), "none found".into()));
    }
    Err(none)
}

/// Files and folders the object depends on: a build script watches these.
pub fn inputs() -> Vec<PathBuf> {
    let mut inputs: Vec<PathBuf> = [
        "Cargo.toml",
        "Cargo.lock",
        "epiclb-ebpf/Cargo.toml",
        "epiclb-ebpf/src",
        "epiclb-common/Cargo.toml",
        "epiclb-common/src",
    ]
    .map(|path| workspace().join(path))
    .into();
    inputs.extend(env::var_os(PREBUILT).filter(|v| !v.is_empty()).map(|path| workspace().join(path)));
    inputs
}

/// The top of the repository: cargo tells whatever it runs where its package lies. What was true when this library was
/// built may be so no longer, in a target folder that several checkouts share.
pub fn workspace() -> &'static Path {
    static TOP: LazyLock<PathBuf> = LazyLock::new(|| {
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        PathBuf::from(package).parent().expect("every package lies in the workspace").to_owned()
    });
    &TOP
}

/// Who builds the object with what, in one line: for `setup` and for error messages.
impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.name, self.linker.display())
    }
}

struct Candidate {
    name: String,
    rustc: PathBuf,
    cargo: PathBuf,
}

fn candidates() -> Vec<Candidate> {
    let default_cargo = env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from);
    let mut toolchains: Vec<(String, PathBuf)> = rustup_home()
        .and_then(|home| fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("bin/rustc").exists())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    // `nightly-<host>` itself, then dated nightlies, then the rest; by name among equals.
    toolchains.sort_by_key(|(name, _)| {
        let dated = name.strip_prefix("nightly-").is_none_or(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        (!name.starts_with("nightly"), dated, name.clone())
    });

    let mut all: Vec<Candidate> = toolchains
        .into_iter()
        .map(|(name, path)| {
            let own_cargo = path.join("bin/cargo");
            Candidate {
                name: format!("rustup {name}"),
                rustc: path.join("bin/rustc"),
                cargo: if own_cargo.exists() { own_cargo } else { default_cargo.clone() },
            }
        })
        .collect();
    if Path::new(DEBIAN_RUSTC).exists() {
        all.push(Candidate {
            name: format!("system {DEBIAN_RUSTC}"),
            rustc: DEBIAN_RUSTC.into(),
            cargo: default_cargo,
        });
    }
    all
}

fn rustup_home() -> Option<PathBuf> {
    env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| env::home_dir().map(|home| home.join(".rustup")))
}

/// Every `bpf-linker` there is: people have one per world.
fn linkers() -> Vec<PathBuf> {
    let cargo_bin = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut linkers = Vec::new();
    for folder in cargo_bin.into_iter().chain(env::split_paths(&path)).chain([PathBuf::from("/usr/local/bin")]) {
        let linker = folder.join("bpf-linker");
        if linker.is_file() && !linkers.contains(&linker) {
            linkers.push(linker);
        }
    }
    linkers
}

/// Three lines, compiled and linked: 0.1 s that replace guessing from version numbers.
fn probe(rustc: &Path, linkers: &[PathBuf]) -> Result<PathBuf> {
    const PROBE: &str = "#![no_std]\n#[unsafe(no_mangle)]\npub extern \"C\" fn probe(a: u64) -> u64 { a + 1 }\n";

    let sysroot = run(clean(rustc).args(["--print", "sysroot"]))?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    ensure!(core.is_dir(), "has no library sources (rust-src): {} is missing", core.display());
    ensure!(!linkers.is_empty(), "there is no bpf-linker to go with it");

    let folder = Scratch::new()?;
    let (source, bitcode) = (folder.0.join("probe.rs"), folder.0.join("probe.bc"));
    fs::write(&source, PROBE)?;
    run(clean(rustc)
        .args(["--edition=2024", "--crate-type=lib", "--emit=llvm-bc", "-Cdebuginfo=2", "-Cpanic=abort", "-o"])
        .args([&bitcode, &source]))
    .context("cannot compile three lines")?;

    let mut reasons = Vec::new();
    for linker in linkers {
        let linked = run(clean(linker)
            .args(["--target=bpfel", "--btf", "--export=probe", "-o"])
            .args([&folder.0.join("probe.o"), &bitcode]));
        match linked {
            Ok(_) => return Ok(linker.clone()),
            Err(error) => reasons.push(format!("{} cannot read what it writes ({error:#})", linker.display())),
        }
    }
    bail!("{}", reasons.join("; "))
}

/// Where the nested cargo builds: `target/bpf`, so that clippy, tests and releases share one build (each has a build
/// script run, and so an `OUT_DIR`, of its own: `target/<profile>/build/<package>-<hash>/out`).
fn shared(out_dir: &Path) -> PathBuf {
    let build = out_dir.ancestors().find(|folder| folder.ends_with("build"));
    let target = build.and_then(|build| build.parent()?.parent());
    target.unwrap_or(out_dir).join("bpf")
}

fn compile(compiler: &Compiler, folder: &Path) -> Result<PathBuf> {
    // cargo tells a build script about the machine the daemon is for; elsewhere that is this one.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.into());
    let big = env::var("CARGO_CFG_TARGET_ENDIAN").map_or(cfg!(target_endian = "big"), |endian| endian == "big");
    let target = if big { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let linker_variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
    let flags = ["-Cdebuginfo=2", "-Clink-arg=--btf", &format!("--cfg=bpf_target_arch=\"{arch}\"")].join("\u{1f}");

    run(clean(&compiler.cargo)
        .current_dir(workspace())
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            PACKAGE,
            "--bin",
            BIN,
            "--target",
            target,
            "-Zbuild-std=core",
        ])
        .arg("--target-dir")
        .arg(folder)
        .env("RUSTC", &compiler.rustc)
        .env(linker_variable, &compiler.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags))
    .with_context(|| format!("building the XDP program failed ({compiler})"))?;
    Ok(folder.join(target).join("release").join(BIN))
}

/// A command that inherits none of the outer cargo's choices: not its compiler, flags, clippy wrapper, profile,
/// target or job server. What concerns fetching (home, registries, proxies, offline) stays.
fn clean(program: impl AsRef<OsStr>) -> Command {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_COLOR"];
    const DROPPED: [&str; 12] = [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_LINKER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTUP_TOOLCHAIN",
        "CLIPPY_ARGS",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "MFLAGS",
    ];
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let cargos = text == "CARGO" || text.starts_with("CARGO_");
        if (cargos && !KEPT.iter().any(|kept| text.starts_with(kept))) || DROPPED.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    // A stable compiler accepts -Zbuild-std and the BPF target's unstable features under this.
    command.env("RUSTC_BOOTSTRAP", "1").stdin(Stdio::null());
    command
}

/// Runs to completion; standard output, or an error that holds what was written to standard error.
fn run(command: &mut Command) -> Result<String> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        bail!("{}: {}", output.status, if said.is_empty() { "no message" } else { said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An ELF file for machine EM_BPF (247, `linux/elf-em.h`), in either byte order.
fn check_elf(bytes: &[u8]) -> Result<()> {
    const EM_BPF: u8 = 247;
    ensure!(bytes.len() > 20 && bytes.starts_with(b"\x7fELF"), "not an ELF file");
    ensure!(bytes[18] == EM_BPF || bytes[19] == EM_BPF, "an ELF file for another machine");
    Ok(())
}

/// A folder of its own for a probe, removed afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let parent: OsString = env::var_os("OUT_DIR").unwrap_or_else(|| env::temp_dir().into_os_string());
        let path = Path::new(&parent).join(format!("epiclb-probe-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_elf_file_for_another_machine_is_refused() {
        let mut elf = vec![0_u8; 64];
        assert!(check_elf(&elf).is_err());
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = 62; // x86-64
        assert!(check_elf(&elf).is_err());
        elf[18] = 247;
        assert!(check_elf(&elf).is_ok());
        (elf[18], elf[19]) = (0, 247);
        assert!(check_elf(&elf).is_ok());
    }

    #[test]
    fn every_build_script_run_shares_one_nested_target_folder() {
        for out_dir in ["/w/target/debug/build/epiclb-1f/out", "/w/target/release/build/epiclb-2e/out"] {
            assert_eq!(shared(Path::new(out_dir)), Path::new("/w/target/bpf"));
        }
        assert_eq!(shared(Path::new("/tmp/object")), Path::new("/tmp/object/bpf"));
    }

    #[test]
    fn the_refusal_names_each_candidate_and_the_remedy() {
        let none = NoCompiler { tried: vec![("rustup nightly".into(), "has no library sources".into())] };
        let text = none.to_string();
        assert!(text.contains("  - rustup nightly: has no library sources"), "{text}");
        assert!(text.contains("cargo xtask setup"), "{text}");
        assert!(text.contains(PREBUILT), "{text}");
    }

    #[test]
    fn a_compiler_without_sources_is_refused_with_the_missing_path() {
        let folder = Scratch::new().unwrap();
        let rustc = folder.0.join("rustc");
        fs::write(&rustc, "#!/bin/sh\necho /nowhere\n").unwrap();
        fs::set_permissions(&rustc, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let reason = probe(&rustc, &[]).unwrap_err().to_string();
        assert!(reason.contains("/nowhere/lib/rustlib/src/rust/library/core"), "{reason}");
    }
}
