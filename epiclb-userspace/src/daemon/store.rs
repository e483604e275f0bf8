//! What outlives the daemon in its state folder: the rings' secret and the operator's admin states.
//!
//! Files are replaced whole (written beside, synced, renamed), so that a crash or a full disk leaves the old one.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use epiclb_common::hash::Seed;
use serde::{Deserialize, Serialize};

use crate::model::{Admin, AdminStates, RipName};

/// The state folder.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

/// `admin.json`.
#[derive(Serialize, Deserialize)]
struct AdminFile {
    version: u32,
    /// RIPs that are not online, as `VIP/RIP`.
    admin: BTreeMap<String, Admin>,
}

const ADMIN_VERSION: u32 = 1;

/// Bytes of the secret: more than the hash takes today, so that it can serve a peer's authentication too.
const SECRET_BYTES: usize = 32;

impl Store {
    /// Opens the folder, and makes it if it is missing.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)
            .with_context(|| format!("making the state folder {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The secret behind rings and ports: made at the first start, then kept. Two nodes that share it place every
    /// client alike.
    ///
    /// # Errors
    /// The file system's, and a file that is not a secret, or that others may read.
    pub(super) fn seed(&self) -> Result<Seed> {
        let path = self.dir.join("secret");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = [0_u8; SECRET_BYTES];
                getrandom::fill(&mut bytes).map_err(|error| anyhow!("asking the kernel for random bytes: {error}"))?;
                let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                self.replace("secret", text.as_bytes())?;
                text
            }
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path)?) & 0o777;
        if mode & 0o077 != 0 {
            bail!("{} has mode {mode:o}: it is secret; `chmod 600` it", path.display());
        }
        let word = |at: usize| text.get(at..at + 16).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        match (text.trim().len() == SECRET_BYTES * 2, word(0), word(16)) {
            (true, Some(first), Some(second)) => Ok(Seed(first, second)),
            _ => bail!("{} is not a secret: it should hold {} hexadecimal digits", path.display(), SECRET_BYTES * 2),
        }
    }

    /// The operator's admin states; none at the first start.
    ///
    /// # Errors
    /// A file that can't be read or understood: better no start than a halted server taking clients.
    pub(super) fn admin(&self) -> Result<AdminStates> {
        let path = self.dir.join("admin.json");
        let mut text = String::new();
        match File::open(&path) {
            Ok(mut file) => file.read_to_string(&mut text).with_context(|| format!("reading {}", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(AdminStates::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let file: AdminFile =
            serde_json::from_str(&text).with_context(|| format!("understanding {}", path.display()))?;
        if file.version != ADMIN_VERSION {
            bail!("{} is of version {}, and this epiclb knows {ADMIN_VERSION}", path.display(), file.version);
        }
        let name = |name: String| {
            let (vip, rip) = name.split_once('/')?;
            Some(RipName { vip: vip.to_owned(), rip: rip.to_owned() })
        };
        Ok(file.admin.into_iter().filter_map(|(key, admin)| Some((name(key)?, admin))).collect())
    }

    /// Keeps the admin states.
    ///
    /// # Errors
    /// The file system's; the old file is still there.
    pub(super) fn set_admin(&self, states: &AdminStates) -> Result<()> {
        let admin = states
            .iter()
            .filter(|(_, admin)| **admin != Admin::Online)
            .map(|(name, admin)| (name.to_string(), *admin))
            .collect();
        let text = serde_json::to_string_pretty(&AdminFile { version: ADMIN_VERSION, admin })?;
        self.replace("admin.json", text.as_bytes())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        let beside = self.dir.join(format!(".{name}.new"));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().with_context(|| format!("writing {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn name(rip: &str) -> RipName {
        RipName { vip: "Hyperspace".into(), rip: rip.into() }
    }

    #[test]
    fn the_secret_is_made_once_and_readable_by_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let seed = store.seed().unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().seed().unwrap(), seed);
        let mode = fs::metadata(dir.path().join("secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_ne!(Store::open(tempfile::tempdir().unwrap().path()).unwrap().seed().unwrap(), seed);
    }

    #[test]
    fn a_secret_that_others_may_read_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.seed().unwrap();
        let path = dir.path().join("secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(store.seed().unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not hex").unwrap();
        let error = store.seed().unwrap_err().to_string();
        assert!(error.contains("64 hexadecimal digits") && !error.contains("not hex"), "{error}");
    }

    #[test]
    fn admin_states_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.admin().unwrap().is_empty());
        let states =
            AdminStates::from([(name("a"), Admin::Halt), (name("b"), Admin::DrainHard), (name("c"), Admin::Online)]);
        store.set_admin(&states).unwrap();
        let kept = store.admin().unwrap();
        assert_eq!(kept, AdminStates::from([(name("a"), Admin::Halt), (name("b"), Admin::DrainHard)]));
    }

    #[test]
    fn admin_states_that_are_not_understood_stop_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::write(dir.path().join("admin.json"), "{\"version\": 99, \"admin\": {}}").unwrap();
        assert!(store.admin().unwrap_err().to_string().contains("99"));
        fs::write(dir.path().join("admin.json"), "garbage").unwrap();
        assert!(store.admin().is_err());
    }
}
