//! Tokens and who gets in by them, on real files.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use access_tokens::{
    Authenticator, Caller, Denied, HiveSecrets, Secret, TokenError, TokenStore, local_secret,
};

/// Waits until a change behind the store's back is seen: files are looked at every few milliseconds.
fn verifies(
    door: &Authenticator,
    bearer: Option<&str>,
    expected: &Result<Caller, Denied>,
    what: &str,
) {
    let begin = Instant::now();
    while door.verify(bearer) != *expected {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what:?}: {:?}", door.verify(bearer));
        thread::yield_now();
    }
}

#[test]
fn a_token_is_listed_without_its_secret_until_it_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let store = TokenStore::open(folder.path());
    assert!(store.list().unwrap().is_empty());
    let token = store.create("laptop").unwrap();
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&token.info));
    assert_eq!(token.info.fingerprint.len(), 8);
    assert!(token.info.created_at.ends_with('Z'), "{}", token.info.created_at);
    let kept = fs::read_to_string(folder.path().join("tokens.json")).unwrap();
    assert!(!kept.contains(token.secret.expose()));
    assert!(matches!(store.create("laptop"), Err(TokenError::NameTaken(_))));
    assert_eq!(store.revoke(&token.info.id).unwrap(), token.info);
    assert!(store.list().unwrap().is_empty());
    assert!(matches!(store.revoke("laptop"), Err(TokenError::Unknown(_))));
}

#[test]
fn a_name_that_cannot_be_printed_or_typed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(65);
    for name in ["", "a\nb", "a/b", "naïve", long.as_str()] {
        let made = TokenStore::open(folder.path()).create(name);
        assert!(matches!(made, Err(TokenError::BadName)), "{name:?}");
    }
}

#[test]
fn without_tokens_nobody_needs_one_and_with_one_everybody_does() {
    let folder = tempfile::tempdir().unwrap();
    let door = Authenticator::from_store(folder.path()).unwrap();
    assert!(!door.is_required());
    for anything in [None, Some("x")] {
        assert_eq!(door.verify(anything), Ok(Caller::Local));
        assert_eq!(door.holder(anything), None);
    }
    let store = TokenStore::open(folder.path());
    let token = store.create("laptop").unwrap();
    assert!(door.is_required());
    assert_eq!(door.verify(None), Err(Denied::Missing));
    assert_eq!(door.verify(Some("")), Err(Denied::Wrong));
    let caller = door.verify(Some(token.secret.expose())).unwrap();
    let Caller::Token { id, fingerprint } = &caller else { panic!("{caller:?}") };
    assert_eq!((id, fingerprint), (&token.info.id, &token.info.fingerprint));
    assert_eq!(caller.to_string(), token.info.fingerprint);
    let local = local_secret(folder.path()).unwrap();
    assert_eq!(door.clone().verify(Some(local.expose())), Ok(Caller::Local));
    assert_eq!(door.holder(Some(local.expose())), Some(Caller::Local));
}

#[test]
fn a_revoked_token_is_refused_at_once_and_the_last_one_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = TokenStore::open(folder.path());
    let (laptop, desktop) = (store.create("laptop").unwrap(), store.create("desktop").unwrap());
    let door = Authenticator::from_store(folder.path()).unwrap();
    assert!(door.verify(Some(laptop.secret.expose())).is_ok());
    store.revoke("laptop").unwrap();
    assert_eq!(door.verify(Some(laptop.secret.expose())), Err(Denied::Wrong));
    assert!(door.verify(Some(desktop.secret.expose())).is_ok());
    store.revoke("desktop").unwrap();
    assert_eq!(door.verify(Some(desktop.secret.expose())), Err(Denied::Wrong));
    assert_eq!(door.verify(None), Err(Denied::Missing));
    let restarted = Authenticator::from_store(folder.path()).unwrap();
    assert_eq!(restarted.verify(None), Err(Denied::Missing), "a restart opens nothing either");
    fs::remove_file(folder.path().join("tokens.json")).unwrap();
    assert_eq!(door.verify(None), Err(Denied::Missing));
    let begun_anew = Authenticator::from_store(folder.path()).unwrap();
    assert_eq!(begun_anew.verify(None), Ok(Caller::Local), "its owner took the file away");
}

#[test]
fn a_damaged_file_is_refused_at_start_and_lets_nobody_in_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = TokenStore::open(folder.path());
    let token = store.create("laptop").unwrap();
    let file = folder.path().join("tokens.json");
    let whole = fs::read_to_string(&file).unwrap();
    let without_digest = whole.replace("sha256", "sha265");
    let short_digest = whole.replace("\"sha256\": \"", "\"sha256\": \"0");
    let cases =
        ["", " ", "[", "{}", "null", &whole[..whole.len() / 2], &without_digest, &short_digest];
    for damaged in cases {
        let fresh = tempfile::tempdir().unwrap();
        let door = Authenticator::from_store(fresh.path()).unwrap();
        assert_eq!(door.verify(None), Ok(Caller::Local));
        fs::write(fresh.path().join("tokens.json"), damaged).unwrap();
        verifies(&door, None, &Err(Denied::Missing), damaged);
        assert_eq!(door.verify(Some(token.secret.expose())), Err(Denied::Wrong), "{damaged:?}");
        let local = local_secret(fresh.path()).unwrap();
        assert_eq!(door.verify(Some(local.expose())), Ok(Caller::Local), "{damaged:?}");

        let refused = Authenticator::from_store(fresh.path()).unwrap_err();
        assert!(matches!(refused, TokenError::Damaged { .. }), "{damaged:?}: {refused}");
        assert!(refused.to_string().contains("tokens.json is damaged"), "{refused}");
        let store = TokenStore::open(fresh.path());
        assert!(matches!(store.create("x"), Err(TokenError::Damaged { .. })), "{damaged:?}");
        let kept = fs::read_to_string(fresh.path().join("tokens.json")).unwrap();
        assert_eq!(kept, damaged, "a damaged file is left for its owner to repair");
    }
}

#[test]
fn a_repaired_file_lets_its_tokens_in_again() {
    let folder = tempfile::tempdir().unwrap();
    let token = TokenStore::open(folder.path()).create("laptop").unwrap();
    let door = Authenticator::from_store(folder.path()).unwrap();
    let file = folder.path().join("tokens.json");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, "").unwrap();
    verifies(&door, Some(token.secret.expose()), &Err(Denied::Wrong), "empty");
    fs::write(&file, whole).unwrap();
    let (id, fingerprint) = (token.info.id, token.info.fingerprint);
    let caller = Ok(Caller::Token { id, fingerprint });
    verifies(&door, Some(token.secret.expose()), &caller, "whole");
}

#[test]
fn a_damaged_local_secret_is_refused_and_lets_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    TokenStore::open(folder.path()).create("laptop").unwrap();
    let door = Authenticator::from_store(folder.path()).unwrap();
    let whole = local_secret(folder.path()).unwrap();
    let file = folder.path().join("local.token");
    for damaged in ["", "\n", "rbee_short", &whole.expose().replace('_', " ")] {
        fs::write(&file, damaged).unwrap();
        let error = local_secret(folder.path()).unwrap_err();
        assert!(matches!(error, TokenError::DamagedSecret { .. }), "{damaged:?}: {error}");
        verifies(&door, Some(whole.expose()), &Err(Denied::Wrong), damaged);
        assert_eq!(door.verify(Some(damaged.trim())), Err(Denied::Wrong), "{damaged:?}");
    }
    fs::remove_file(&file).unwrap();
    let another = local_secret(folder.path()).unwrap();
    assert_ne!(another, whole);
    verifies(&door, Some(another.expose()), &Ok(Caller::Local), "another");
    assert_eq!(door.verify(Some(whole.expose())), Err(Denied::Wrong));
}

#[test]
fn a_fixed_secret_is_the_only_one() {
    let door = Authenticator::fixed(Secret::from("right".to_owned()));
    assert!(door.is_required());
    assert_eq!(door.verify(Some("right")), Ok(Caller::Local));
    assert_eq!(door.verify(Some("right ")), Err(Denied::Wrong));
    assert_eq!(door.verify(None), Err(Denied::Missing));
}

#[test]
fn only_the_owner_can_read_the_files() {
    let home = tempfile::tempdir().unwrap();
    let secrets = home.path().join("data/secrets");
    fs::create_dir_all(&secrets).unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o755)).unwrap();
    local_secret(&secrets).unwrap();
    TokenStore::open(&secrets).create("laptop").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&secrets), 0o700);
    for entry in fs::read_dir(&secrets).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let file = secrets.join("local.token");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    local_secret(&secrets).unwrap();
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn the_secret_of_a_hive_names_that_hive_until_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let hives = HiveSecrets::open(folder.path()).unwrap();
    let door = Authenticator::from_store(folder.path()).unwrap().with_hives(hives.clone());
    let (one, two) = ("gpu-1".parse().unwrap(), "gpu-2".parse().unwrap());
    let secret = hives.get_or_make(&one).unwrap();
    assert_eq!(hives.get_or_make(&one).unwrap(), secret);
    assert_ne!(hives.get_or_make(&two).unwrap(), secret);
    assert_eq!(door.holder(Some(secret.expose())), Some(Caller::Hive(one.clone())));

    let file = folder.path().join("hives/gpu-1.token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let reread = HiveSecrets::open(folder.path()).unwrap();
    assert_eq!(reread.get(&one), Some(secret.clone()));

    hives.remove(&one).unwrap();
    hives.remove(&one).unwrap();
    assert!(!file.exists());
    assert_eq!(door.holder(Some(secret.expose())), None);
}

#[test]
fn a_hive_cannot_be_given_what_is_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let hives = HiveSecrets::open(folder.path()).unwrap();
    let hive = "gpu-1".parse().unwrap();
    for bad in ["", "short", &"two words ".repeat(5), &"é".repeat(40)] {
        let refused = hives.set(&hive, Secret::from(bad.to_owned()));
        assert!(matches!(refused, Err(TokenError::NoSecret)), "{bad:?}");
    }
    fs::create_dir_all(folder.path().join("hives")).unwrap();
    fs::write(folder.path().join("hives/gpu-1.token"), "short").unwrap();
    assert_eq!(HiveSecrets::open(folder.path()).unwrap().get(&hive), None);
}

#[test]
fn a_demanding_door_needs_a_secret_before_there_is_any_token() {
    let folder = tempfile::tempdir().unwrap();
    let door = Authenticator::from_store(folder.path()).unwrap().demanding();
    assert!(door.is_required());
    assert_eq!(door.verify(None), Err(Denied::Missing));
    let local = local_secret(folder.path()).unwrap();
    assert_eq!(door.verify(Some(local.expose())), Ok(Caller::Local));
}
