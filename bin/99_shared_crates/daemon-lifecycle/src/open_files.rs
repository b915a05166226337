//! How many files a daemon may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// With fewer, a daemon with many clients may come to its limit.
const FEW: u64 = 4096;

/// Raises this process's limit of open files as far as the system lets it. Each connection takes one,
/// and most systems begin with 1,024.
pub fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::info!(%error, files = current, "the limit of open files stays as it is");
    }
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < FEW) {
        tracing::warn!(
            files,
            "few files may be open, and so few connections: raise the limit (`ulimit -n`, or LimitNOFILE of the unit)"
        );
    }
}
