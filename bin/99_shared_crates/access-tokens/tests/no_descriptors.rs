//! A process that may open no file for a while. The limit is that of all threads, so it is the only test here.
#![cfg(unix)]

use std::thread;
use std::time::{Duration, Instant};

use access_tokens::{Authenticator, Denied, TokenStore, local_secret};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_moment_without_file_descriptors_locks_no_token_out_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let store = TokenStore::open(folder.path());
    let first = store.create("first").unwrap().secret;
    let local = local_secret(folder.path()).unwrap();
    let door = Authenticator::from_store(folder.path()).unwrap();
    let second = store.create("second").unwrap().secret;
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: usual.maximum }).unwrap();
    let meanwhile = [&first, &second, &local].map(|secret| door.verify(Some(secret.expose())));
    let nobody = door.verify(None);
    setrlimit(Resource::Nofile, usual).unwrap();
    assert!(meanwhile.iter().all(|verified| *verified == Err(Denied::Wrong)), "{meanwhile:?}");
    assert_eq!(nobody, Err(Denied::Missing));
    let begin = Instant::now();
    for secret in [first, second, local] {
        while door.verify(Some(secret.expose())).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the files are not read again");
            thread::yield_now();
        }
    }
}
