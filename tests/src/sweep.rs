//! Removes what a lab made: its own on drop, and what killed runs left behind.
//!
//! Everything a lab makes on the machine carries its prefix `epiclb-<pid>-<n>-` in its name, or lives in a namespace
//! that does, so removal needs no memory of what was made.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{host::ip_batch, until};

pub(crate) const BPFFS: &str = "/sys/fs/bpf";
const NETNS: &str = "/run/netns";
const OURS: &str = "epiclb-";

/// Removes what labs of processes that no longer run left behind; how many things that was.
pub fn sweep() -> usize {
    let mut prefixes: Vec<String> = [PathBuf::from(NETNS), PathBuf::from(BPFFS), std::env::temp_dir()]
        .iter()
        .flat_map(|folder| names(folder))
        .filter_map(|name| dead_owner(&name))
        .collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes.iter().map(|prefix| remove(prefix)).sum()
}

/// Ends every process in the namespaces that start with `prefix`, and removes them with their folders. Returns how
/// many things were removed.
pub(crate) fn remove(prefix: &str) -> usize {
    let namespaces: Vec<String> = names(Path::new(NETNS)).into_iter().filter(|n| n.starts_with(prefix)).collect();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let pids = pids(&namespaces);
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            let _ = kill(pid, signal);
        }
        // A zombie has no namespace, so unreaped children of ours do not count.
        let gone = || Ok(self::pids(&namespaces).is_empty().then_some(()));
        let _ = until("every process of the lab to end", Duration::from_secs(10), gone);
    }
    // One that can't be removed keeps no other.
    if let Err(error) = ip_batch(&["-force"], namespaces.iter().map(|namespace| format!("netns del {namespace}"))) {
        complain!("cannot remove a namespace: {error:#}");
    }
    let mut removed = namespaces.iter().filter(|namespace| !Path::new(NETNS).join(namespace).exists()).count();
    for parent in [PathBuf::from(BPFFS), std::env::temp_dir()] {
        for name in names(&parent).into_iter().filter(|name| name.starts_with(prefix)) {
            match fs::remove_dir_all(parent.join(&name)) {
                Ok(()) => removed += 1,
                Err(error) => complain!("cannot remove {}/{name}: {error}", parent.display()),
            }
        }
    }
    removed
}

/// `epiclb-<pid>-<n>-` of a name whose process is gone.
fn dead_owner(name: &str) -> Option<String> {
    let mut parts = name.strip_prefix(OURS)?.split('-');
    let pid: i32 = parts.next()?.parse().ok()?;
    let lab: u32 = parts.next()?.parse().ok()?;
    (!is_alive(pid)).then(|| format!("{OURS}{pid}-{lab}-"))
}

/// Whether a process still does something: one that was killed and not yet waited for (a zombie) does not.
fn is_alive(pid: i32) -> bool {
    // proc_pid_stat(5): the state follows the name, which is in brackets and may hold any.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| !"ZX".contains(state))
}

/// Processes in any of these namespaces, this one excepted.
fn pids(namespaces: &[String]) -> Vec<Pid> {
    let inode = |path: &Path| fs::metadata(path).map(|namespace| namespace.ino()).ok();
    let inodes: Vec<u64> = namespaces.iter().filter_map(|name| inode(&Path::new(NETNS).join(name))).collect();
    let inside = |pid: &i32| inode(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|own| inodes.contains(&own));
    names(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(std::process::id()))
        .filter(inside)
        .map(Pid::from_raw)
        .collect()
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_process_is_dead_before_anyone_waits_for_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(is_alive(pid));
        child.kill().unwrap();
        until("the child to be a zombie", crate::PATIENCE, || Ok((!is_alive(pid)).then_some(()))).unwrap();
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }

    #[test]
    fn only_names_of_dead_owners_are_leftovers() {
        let own = std::process::id();
        assert_eq!(dead_owner(&format!("epiclb-{own}-0-lb1")), None);
        // Process ids end at 2^22 (`PID_MAX_LIMIT`), so nobody has this one.
        assert_eq!(dead_owner("epiclb-99999999-3-lb1").as_deref(), Some("epiclb-99999999-3-"));
        assert_eq!(dead_owner("epiclb"), None);
        assert_eq!(dead_owner("epiclb-state"), None);
        assert_eq!(dead_owner("epiclb-99999999"), None);
        assert_eq!(dead_owner("somebody-else"), None);
    }
}
