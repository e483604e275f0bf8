//! The one way to define a type that crosses the BPF boundary.

/// Defines a `#[repr(C)]` struct of integers and bytes without padding, and its `Pod` under feature `user`.
///
/// Padding would leak kernel stack into maps and make equal keys compare unequal, so its absence is
/// asserted at compile time: the size must be the sum of the fields' sizes.
macro_rules! wire {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)*
        }

        const _: () = assert!(
            core::mem::size_of::<$name>() == 0 $(+ core::mem::size_of::<$ty>())*,
            concat!(stringify!($name), " has padding"),
        );

        // SAFETY: `repr(C)`, no padding (asserted above), and every field is an integer, an array of integers
        // or another wire type, so every bit pattern is a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

pub(crate) use wire;
