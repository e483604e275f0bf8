//! The files that `epiclb init` writes.

/// Which example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// One balanced VIP and its redirect, every key explained.
    Minimal,
    /// Epic EHR as its guide lays it out: Hyperspace and MyChart.
    Epic,
}

/// `node.toml` and `services.toml`, commented. Both parse without an error; the redirects warn until `hosts` is set.
pub fn example(profile: Profile) -> (String, String) {
    let services = match profile {
        Profile::Minimal => include_str!("example/minimal.services.toml"),
        Profile::Epic => include_str!("example/epic.services.toml"),
    };
    (include_str!("example/node.toml").to_owned(), services.to_owned())
}
