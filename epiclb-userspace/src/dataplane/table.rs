//! A map as a typed table, read and written in as few system calls as the kernel allows.
//!
//! aya loads, pins and attaches; its map types read an entry at a time with two system calls each (a million pins
//! would take seconds) and keep their file descriptors to themselves. So this is the daemon's own view of a map, and
//! the only place with raw `bpf(2)` calls (include/uapi/linux/bpf.h; the batch commands are of kernel 5.6).

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::Path,
};

use aya::Pod;

/// A hash map or array with keys `K` and values `V`.
pub struct Table<K, V> {
    fd: OwnedFd,
    _types: PhantomData<fn(K) -> V>,
}

/// Entries read by one system call: at 104 bytes each, less than half a MiB.
const CHUNK: usize = 4096;

impl<K: Pod + Default, V: Pod + Default> Table<K, V> {
    /// The map behind `fd`, whose key and value sizes must be those of the types.
    ///
    /// # Errors
    /// The kernel's, and a map of other sizes.
    pub fn new(fd: impl AsFd) -> io::Result<Self> {
        let fd = fd.as_fd().try_clone_to_owned()?;
        let info = aya::maps::MapInfo::from_id(map_id(fd.as_fd())?).map_err(io::Error::other)?;
        if (info.key_size() as usize, info.value_size() as usize) != (size_of::<K>(), size_of::<V>()) {
            return Err(io::Error::other("the map has entries of another size"));
        }
        Ok(Self { fd, _types: PhantomData })
    }

    /// The value at `key`.
    ///
    /// # Errors
    /// The kernel's, but for a missing entry.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::default();
        let mut attr = self.element(key, (&raw mut value) as u64);
        match call(Command::Lookup, &mut attr) {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the value at `key`.
    ///
    /// # Errors
    /// The kernel's; E2BIG: the table is full.
    pub fn put(&self, key: &K, value: &V) -> io::Result<()> {
        call(Command::Update, &mut self.element(key, (&raw const *value) as u64)).map(drop)
    }

    /// Removes the entry at `key`; whether there was one.
    ///
    /// # Errors
    /// The kernel's, but for a missing entry.
    pub fn remove(&self, key: &K) -> io::Result<bool> {
        match call(Command::Delete, &mut self.element(key, 0)) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` with every entry. Entries that come or go meanwhile may or may not be seen.
    ///
    /// # Errors
    /// The kernel's.
    pub fn for_each(&self, mut each: impl FnMut(&K, &V)) -> io::Result<()> {
        let mut keys = vec![K::default(); CHUNK];
        let mut values = vec![V::default(); CHUNK];
        // Wide enough for a bucket index and for an array's key.
        let (mut position, mut next) = (0_u64, 0_u64);
        let mut first = true;
        loop {
            let mut attr = Batch {
                in_batch: if first { 0 } else { (&raw const position) as u64 },
                out_batch: (&raw mut next) as u64,
                ..self.batch(&keys, values.as_mut_ptr() as u64)
            };
            let end = match call(Command::LookupBatch, &mut attr) {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                // One bucket holds more than a chunk: the kernel asks for more room, and has read nothing.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    keys.resize(keys.len() * 2, K::default());
                    values.resize(keys.len(), V::default());
                    continue;
                }
                Err(error) => return Err(error),
            };
            keys.iter().zip(&values).take(attr.count as usize).for_each(|(key, value)| each(key, value));
            if end {
                return Ok(());
            }
            position = next;
            first = false;
        }
    }

    /// Sets many values in one system call.
    ///
    /// # Errors
    /// The kernel's; some entries may have been written.
    pub fn put_all(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len(), "a value for each key");
        if keys.is_empty() {
            return Ok(());
        }
        call(Command::UpdateBatch, &mut self.batch(keys, values.as_ptr() as u64)).map(drop)
    }

    /// Removes many entries; those that are gone already do no harm. Returns how many there were.
    ///
    /// # Errors
    /// The kernel's, but for missing entries.
    pub fn remove_all(&self, keys: &[K]) -> io::Result<usize> {
        let mut removed = 0;
        let mut rest = keys;
        while !rest.is_empty() {
            let mut attr = self.batch(rest, 0);
            match call(Command::DeleteBatch, &mut attr) {
                Ok(_) => return Ok(removed + rest.len()),
                // The kernel stops at a missing key, with the number it had removed before.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    removed += attr.count as usize;
                    rest = &rest[(attr.count as usize + 1).min(rest.len())..];
                }
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn element(&self, key: &K, value: u64) -> Element {
        Element { map_fd: self.fd.as_raw_fd() as u32, reserved: 0, key: (&raw const *key) as u64, value, flags: 0 }
    }

    fn batch(&self, keys: &[K], values: u64) -> Batch {
        Batch {
            keys: keys.as_ptr() as u64,
            values,
            count: keys.len() as u32,
            map_fd: self.fd.as_raw_fd() as u32,
            ..Batch::default()
        }
    }
}

impl Table<u32, u32> {
    /// A new array of `entries` words that may stand in a map of maps beside arrays of other lengths
    /// (`BPF_F_INNER_MAP`, kernel 5.10).
    ///
    /// # Errors
    /// The kernel's.
    pub fn inner_array(entries: u32) -> io::Result<Self> {
        const BPF_MAP_TYPE_ARRAY: u32 = 2;
        const BPF_F_INNER_MAP: u32 = 1 << 12;
        let mut attr = Create {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: entries,
            map_flags: BPF_F_INNER_MAP,
            ..Create::default()
        };
        let fd = call(Command::Create, &mut attr)?;
        // SAFETY: a successful BPF_MAP_CREATE returns a new file descriptor that is ours.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, _types: PhantomData })
    }

    /// In a map of maps: the map at `index`.
    ///
    /// # Errors
    /// The kernel's, but for a missing entry.
    pub fn inner(&self, index: u32) -> io::Result<Option<Self>> {
        let Some(id) = self.get(&index)? else { return Ok(None) };
        let fd = call(Command::MapById, &mut ById { id, ..ById::default() })?;
        // SAFETY: a successful BPF_MAP_GET_FD_BY_ID returns a new file descriptor that is ours.
        Ok(Some(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, _types: PhantomData }))
    }

    /// In a map of maps: swaps the map at `index` for `inner`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_inner(&self, index: u32, inner: &Self) -> io::Result<()> {
        self.put(&index, &(inner.fd.as_raw_fd() as u32))
    }
}

/// Runs a program once over `frame` (BPF_PROG_TEST_RUN).
///
/// # Errors
/// The kernel's.
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<()> {
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    call(Command::TestRun, &mut attr).map(drop)
}

/// The interface that a pinned XDP link is on; 0: it is gone (`struct bpf_link_info`).
///
/// # Errors
/// The kernel's.
pub(super) fn link_interface(pin: &Path) -> io::Result<u32> {
    let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
    let fd = call(Command::Get, &mut Object { pathname: path.as_ptr() as u64, ..Object::default() })?;
    // SAFETY: a successful BPF_OBJ_GET returns a new file descriptor that is ours.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let [_type, _id, _program, _pad, ifindex] = info(link.as_fd())?;
    Ok(ifindex)
}

fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    // struct bpf_map_info starts so.
    let [_type, id] = info(map)?;
    Ok(id)
}

/// The first words of what the kernel tells of a BPF object.
fn info<const N: usize>(object: BorrowedFd<'_>) -> io::Result<[u32; N]> {
    let mut info = [0_u32; N];
    let mut attr =
        Info { bpf_fd: object.as_raw_fd() as u32, info_len: size_of_val(&info) as u32, info: info.as_mut_ptr() as u64 };
    call(Command::InfoByFd, &mut attr)?;
    Ok(info)
}

/// Commands of `bpf(2)` (`enum bpf_cmd`).
#[derive(Clone, Copy)]
enum Command {
    Create = 0,
    Lookup = 1,
    Update = 2,
    Delete = 3,
    Get = 7,
    TestRun = 10,
    MapById = 14,
    InfoByFd = 15,
    LookupBatch = 24,
    UpdateBatch = 26,
    DeleteBatch = 27,
}

/// A member of `union bpf_attr`.
trait Attr {}

macro_rules! attr {
    ($name:ident { $($field:ident: $ty:ty),* $(,)? }) => {
        #[repr(C)]
        #[derive(Default)]
        struct $name {
            $($field: $ty,)*
        }

        impl Attr for $name {}
    };
}

attr!(Create { map_type: u32, key_size: u32, value_size: u32, max_entries: u32, map_flags: u32, reserved: u32 });
attr!(Element { map_fd: u32, reserved: u32, key: u64, value: u64, flags: u64 });
attr!(Object { pathname: u64, bpf_fd: u32, file_flags: u32 });
attr!(ById { id: u32, next_id: u32, open_flags: u32 });
attr!(Info { bpf_fd: u32, info_len: u32, info: u64 });
attr!(Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
});
attr!(TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
});

fn call<A: Attr>(command: Command, attr: &mut A) -> io::Result<i32> {
    // SAFETY: `attr` is the member of `union bpf_attr` that the command takes, zeroed where unused. Every pointer in
    // it was just made from a live value or slice of at least `count` elements, and `Table::new` has seen that the
    // map's keys and values are of those types' sizes.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i64, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
