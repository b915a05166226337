//! Tokens and who gets in by them, on real files.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use access_tokens::{
    Authenticator, Caller, Denied, HiveSecrets, Secret, TokenError, TokenInfo, TokenStore,
    local_secret,
};
use sha2::Digest as _;

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
    let kept = fs::read(folder.path().join("tokens.db")).unwrap();
    let is_kept = |text: &str| kept.windows(text.len()).any(|at| at == text.as_bytes());
    assert!(is_kept("laptop") && !is_kept(token.secret.expose()));
    assert!(matches!(store.create("laptop"), Err(TokenError::NameTaken(_))));
    assert_eq!(store.revoke(&token.info.id).unwrap().info, token.info);
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
    fs::remove_file(folder.path().join("tokens.db")).unwrap();
    assert_eq!(door.verify(None), Err(Denied::Missing));
    let begun_anew = Authenticator::from_store(folder.path()).unwrap();
    assert_eq!(begun_anew.verify(None), Ok(Caller::Local), "its owner took the file away");
}

#[test]
fn a_damaged_file_is_refused_at_start_and_lets_nobody_in_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = TokenStore::open(folder.path());
    let token = store.create("laptop").unwrap();
    let whole = fs::read(folder.path().join("tokens.db")).unwrap();
    let changed = |from: &[u8], to: &[u8]| {
        let at = whole.windows(from.len()).position(|at| at == from).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let cases = [
        (Vec::new(), "is empty"),
        (vec![b' '; 8192], "cannot use the tokens"),
        (whole[..whole.len() / 2].to_vec(), "cannot use the tokens"),
        (changed(b"sha256      TEXT", b"sha265"), "cannot use the tokens"),
        (changed(token.info.fingerprint.as_bytes(), &[0xFF]), "cannot use the tokens"),
    ];
    for (damaged, reason) in cases {
        let fresh = tempfile::tempdir().unwrap();
        let door = Authenticator::from_store(fresh.path()).unwrap();
        assert_eq!(door.verify(None), Ok(Caller::Local));
        fs::write(fresh.path().join("tokens.db"), &damaged).unwrap();
        verifies(&door, None, &Err(Denied::Missing), reason);
        assert_eq!(door.verify(Some(token.secret.expose())), Err(Denied::Wrong), "{reason:?}");
        let local = local_secret(fresh.path()).unwrap();
        assert_eq!(door.verify(Some(local.expose())), Ok(Caller::Local), "{reason:?}");

        let refused = Authenticator::from_store(fresh.path()).unwrap_err().to_string();
        assert!(refused.contains(reason) && refused.contains("tokens.db"), "{refused}");
        TokenStore::open(fresh.path()).create("x").unwrap_err();
        let kept = fs::read(fresh.path().join("tokens.db")).unwrap();
        assert!(kept == damaged, "a damaged file is left for its owner to repair: {reason}");
    }
}

#[test]
fn a_file_of_a_later_rbee_is_refused_and_lets_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let token = TokenStore::open(folder.path()).create("laptop").unwrap();
    let door = Authenticator::from_store(folder.path()).unwrap();
    let later = rusqlite::Connection::open(folder.path().join("tokens.db")).unwrap();
    later.execute_batch("PRAGMA user_version = 9").unwrap();
    drop(later);
    verifies(&door, Some(token.secret.expose()), &Err(Denied::Wrong), "later");
    let refused = Authenticator::from_store(folder.path()).unwrap_err();
    assert!(matches!(refused, TokenError::TooNew { found: 9, known: 1, .. }), "{refused}");
}

#[test]
fn a_repaired_file_lets_its_tokens_in_again() {
    let folder = tempfile::tempdir().unwrap();
    let token = TokenStore::open(folder.path()).create("laptop").unwrap();
    let door = Authenticator::from_store(folder.path()).unwrap();
    let file = folder.path().join("tokens.db");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, "").unwrap();
    verifies(&door, Some(token.secret.expose()), &Err(Denied::Wrong), "empty");
    fs::write(&file, whole).unwrap();
    let caller = Ok(holder(&token.info));
    verifies(&door, Some(token.secret.expose()), &caller, "whole");
}

#[test]
fn the_tokens_of_an_earlier_rbee_are_taken_over_once() {
    let folder = tempfile::tempdir().unwrap();
    let earlier = folder.path().join("tokens.json");
    let (laptop, phone) = ("rbee_of-a-laptop", "rbee_of-a-phone");
    let json = r#"[
        {"id": "t-1", "name": "laptop", "fingerprint": "5cbaa3b3",
         "created_at": "2026-01-01T00:00:00Z", "sha256": "LAPTOP"},
        {"id": "t-2", "name": "phone", "fingerprint": "11111111",
         "created_at": "2026-01-01T00:00:01Z", "sha256": "PHONE"}
    ]"#;
    let json = json.replace("LAPTOP", &sha256(laptop)).replace("PHONE", &sha256(phone));
    let names = |folder: &Path| {
        let tokens = TokenStore::open(folder).list().unwrap();
        tokens.into_iter().map(|token| token.name).collect::<Vec<_>>()
    };
    fs::write(&earlier, &json).unwrap();
    assert_eq!(names(folder.path()), ["laptop", "phone"], "they count before they are taken over");
    assert!(earlier.exists(), "looking changes nothing");

    let door = Authenticator::from_store(folder.path()).unwrap();
    assert!(!earlier.exists());
    let kept = folder.path().join("tokens.json.imported");
    assert_eq!(fs::read_to_string(&kept).unwrap(), json);
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    for secret in [laptop, phone] {
        assert!(matches!(door.verify(Some(secret)), Ok(Caller::Token { .. })), "{secret}");
    }

    // As when the power fails before the file has its other name.
    fs::write(&earlier, &json).unwrap();
    let store = TokenStore::open(folder.path());
    assert_eq!(names(folder.path()), ["laptop", "phone"], "none is there twice");
    store.revoke("phone").unwrap();
    assert!(!earlier.exists(), "what is revoked is in no file");
    assert_eq!(door.verify(Some(phone)), Err(Denied::Wrong));
    let begun_anew = Authenticator::from_store(folder.path()).unwrap();
    assert_eq!(begun_anew.verify(Some(phone)), Err(Denied::Wrong));
    assert!(begun_anew.verify(Some(laptop)).is_ok());
}

#[test]
fn a_damaged_file_of_an_earlier_rbee_lets_nobody_in() {
    for damaged in ["", " ", "[", "{}", "null", r#"[{"id": "t-1", "name": "x"}]"#] {
        let folder = tempfile::tempdir().unwrap();
        let door = Authenticator::from_store(folder.path()).unwrap();
        let earlier = folder.path().join("tokens.json");
        fs::write(&earlier, damaged).unwrap();
        verifies(&door, None, &Err(Denied::Missing), damaged);
        let refused = Authenticator::from_store(folder.path()).unwrap_err();
        assert!(matches!(refused, TokenError::Damaged { .. }), "{damaged:?}: {refused}");
        assert!(refused.to_string().contains("tokens.json is damaged"), "{refused}");
        let made = TokenStore::open(folder.path()).create("x");
        assert!(matches!(made, Err(TokenError::Damaged { .. })), "{damaged:?}");
        assert_eq!(fs::read_to_string(&earlier).unwrap(), damaged, "it is left to be repaired");
    }
}

#[test]
fn a_token_that_cannot_be_kept_closes_no_door() {
    let folder = tempfile::tempdir().unwrap();
    // Where its file is to be made.
    fs::create_dir_all(folder.path().join("tokens.db.new")).unwrap();
    let store = TokenStore::open(folder.path());
    store.create("laptop").unwrap_err();
    assert!(!store.are_needed().unwrap());
    let door = Authenticator::from_store(folder.path()).unwrap();
    assert_eq!(door.verify(None), Ok(Caller::Local));
}

#[test]
fn a_change_that_fails_has_not_been_done() {
    let folder = tempfile::tempdir().unwrap();
    let store = TokenStore::open(folder.path());
    let laptop = store.create("laptop").unwrap();
    let before = fs::read(folder.path().join("tokens.db")).unwrap();
    let obstacle = folder.path().join("tokens.db.new");
    fs::create_dir(&obstacle).unwrap();
    store.create("desktop").unwrap_err();
    store.revoke("laptop").unwrap_err();
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&laptop.info));
    assert_eq!(fs::read(folder.path().join("tokens.db")).unwrap(), before);
    fs::remove_dir(&obstacle).unwrap();
    store.create("desktop").unwrap();
    assert_eq!(store.revoke("laptop").unwrap().info, laptop.info);
}

#[test]
fn each_change_can_be_seen_also_where_the_clock_of_the_files_is_coarse() {
    let folder = tempfile::tempdir().unwrap();
    let store = TokenStore::open(folder.path());
    let seen = || {
        let file = fs::metadata(folder.path().join("tokens.db")).unwrap();
        let time = file.modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
        (time.as_secs() / 2, file.ino())
    };
    store.create("laptop").unwrap();
    let mut last = seen();
    for change in 0..6 {
        match change % 2 {
            0 => store.create("desktop").map(drop).unwrap(),
            _ => store.revoke("desktop").map(drop).unwrap(),
        }
        let now = seen();
        assert!(now.0 > last.0 && now.1 != last.1, "{change}: {last:?}, then {now:?}");
        last = now;
    }
    assert_eq!(beside(folder.path()), [".lock", "tokens.db"]);
}

#[test]
fn a_change_that_a_power_cut_may_undo_counts_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = TokenStore::open(folder.path());
    let laptop = store.create("laptop").unwrap();
    assert!(laptop.unsynced.is_none(), "{laptop:?}");
    // Names in it can be changed then, but not put on the disk.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o300)).unwrap();
    let can_read = fs::read_dir(folder.path()).is_ok();
    let changes = [
        store.create("desktop").map(|made| made.unsynced),
        store.revoke("laptop").map(|revoked| revoked.unsynced),
    ];
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for change in changes {
        // The superuser can do all.
        assert_eq!(change.unwrap().is_none(), can_read);
    }
    let names: Vec<_> = store.list().unwrap().into_iter().map(|token| token.name).collect();
    assert_eq!(names, ["desktop"]);
}

/// The names in a folder.
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
fn beside(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> =
        entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn many_who_make_tokens_at_once_lose_none_and_disturb_no_reader() {
    let folder = tempfile::tempdir().unwrap();
    let first = TokenStore::open(folder.path()).create("first").unwrap();
    let door = Authenticator::from_store(folder.path()).unwrap();
    thread::scope(|scope| {
        let makers: Vec<_> = (0..4)
            .map(|maker| {
                let store = TokenStore::open(folder.path());
                scope.spawn(move || {
                    for number in 0..5 {
                        store.create(&format!("{maker}-{number}")).unwrap();
                    }
                })
            })
            .collect();
        while !makers.iter().all(thread::ScopedJoinHandle::is_finished) {
            assert_eq!(door.verify(Some(first.secret.expose())), Ok(holder(&first.info)));
        }
    });
    assert_eq!(TokenStore::open(folder.path()).list().unwrap().len(), 21);
}

fn holder(token: &TokenInfo) -> Caller {
    Caller::Token { id: token.id.clone(), fingerprint: token.fingerprint.clone() }
}

fn sha256(secret: &str) -> String {
    let digest = sha2::Sha256::digest(secret.as_bytes());
    digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
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
    assert_eq!(door.verify(Some("right ")), Err(Denied::SecretWrong));
    assert_eq!(door.verify(None), Err(Denied::SecretMissing));
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
    assert!(
        reread.is_secret_of(&one, secret.expose()) && !reread.is_secret_of(&two, secret.expose())
    );
    assert!(!reread.was_lost(&one));

    hives.remove(&one).unwrap();
    hives.remove(&one).unwrap();
    assert!(!file.exists());
    assert_eq!(door.holder(Some(secret.expose())), None);
    assert!(!hives.is_secret_of(&one, secret.expose()));
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
    let reread = HiveSecrets::open(folder.path()).unwrap();
    assert_eq!((reread.get(&hive), reread.was_lost(&hive)), (None, true));
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
