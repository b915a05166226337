//! Tests that this machine cannot run. A runner counts them as passed, so they are written down apart.

use std::env;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// The variable that names the file in which skipped tests are listed, one a line.
const LIST: &str = "RBEE_TEST_SKIPS";

/// Tells that the test that runs is skipped, and why. The test has to return then.
///
/// # Panics
/// Where there is to be a list and it cannot be written: nobody would learn of it.
pub fn skip_test(reason: &str) {
    let name = env::var("NEXTEST_TEST_NAME").ok();
    let name = name.or_else(|| std::thread::current().name().map(str::to_owned));
    skip(&name.unwrap_or_else(|| "a test".to_owned()), reason);
}

/// The same of a test that is told by its name.
///
/// # Panics
/// Where there is to be a list and it cannot be written.
pub fn skip(name: &str, reason: &str) {
    let line = line(name, reason);
    tell(&format!("skipped: {line}"));
    if let Some(list) = env::var_os(LIST) {
        note(Path::new(&list), &line).expect("the list of skipped tests can be written");
    }
}

fn line(name: &str, reason: &str) -> String {
    let words: Vec<&str> = reason.split_whitespace().collect();
    format!("{name}: {}", words.join(" "))
}

/// In one piece: tests run side by side.
fn note(list: &Path, line: &str) -> io::Result<()> {
    let mut list = File::options().create(true).append(true).open(list)?;
    list.write_all(format!("{line}\n").as_bytes())
}

#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn tell(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_skipped_test_is_a_line_of_the_list() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("skips");
        note(&list, &line("a::b", "no such\n  thing\n")).unwrap();
        note(&list, &line("c", "not here")).unwrap();
        let listed = std::fs::read_to_string(&list).unwrap();
        assert_eq!(listed, "a::b: no such thing\nc: not here\n");
    }
}
