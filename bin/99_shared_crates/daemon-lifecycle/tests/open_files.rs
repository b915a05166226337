//! The limit of open files. Alone in its file: it is the whole process's.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_daemon_may_open_as_many_files_as_the_system_lets_it() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    daemon_lifecycle::raise_file_limit();
    assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: maximum, maximum });
}
