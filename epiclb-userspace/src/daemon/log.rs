//! The daemon's log: lines on standard error, for journald or a terminal. Its level can change while it runs.

use std::io::{self, IsTerminal as _};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

use crate::model::LogLevel;

/// Changes the level.
pub(super) struct Log {
    level: reload::Handle<LevelFilter, Registry>,
}

impl Log {
    /// Starts logging.
    pub(super) fn start(level: LogLevel) -> Self {
        let (filter, handle) = reload::Layer::new(filter(level));
        let terminal = io::stderr().is_terminal();
        let lines = fmt::layer().with_writer(io::stderr).with_ansi(terminal).with_target(false);
        // Journald and syslog stamp lines themselves; a file or a terminal does not.
        let journald = std::env::var_os("JOURNAL_STREAM").is_some();
        let subscriber = tracing_subscriber::registry().with(filter);
        // A second daemon in one process, as a test may have it, logs through the first one's.
        let _ =
            if journald { subscriber.with(lines.without_time()).try_init() } else { subscriber.with(lines).try_init() };
        Self { level: handle }
    }

    pub(super) fn set_level(&self, level: LogLevel) {
        // The subscriber lives as long as the process.
        let _ = self.level.modify(|held| *held = filter(level));
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Takes all the file descriptors the system grants: redirect listeners hold thousands of connections, and the usual
/// soft limit is 1,024. Failure leaves it as it was; accepting copes with running out.
pub(super) fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
