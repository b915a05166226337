//! Reading a worker's log while it is written, cut and written on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::log_file::LogFile;

/// How much of a log's end is looked at for its last lines, in bytes; as much of the log before it.
const MAX_LOOK_BACK: u64 = 2 * 1024 * 1024;
/// How much is read at once of what was added, in bytes.
const MAX_STEP: u64 = 256 * 1024;
/// The longest line that is shown, in bytes; a longer one is shown in parts.
const MAX_LINE: usize = 8 * 1024;

/// A place in a worker's log. Its functions block.
#[derive(Debug)]
pub(crate) struct LogReader {
    log: LogFile,
    position: u64,
    /// The beginning of a line that is not written to its end.
    partial: Vec<u8>,
}

impl LogReader {
    pub(super) fn new(log: LogFile) -> Self {
        Self { log, position: 0, partial: Vec::new() }
    }

    /// The last lines; [`Self::more`] goes on behind them.
    pub(crate) fn last_lines(&mut self, count: usize) -> io::Result<Vec<String>> {
        let (bytes, end) = read_end(self.log.path())?;
        self.position = end;
        let mut lines: VecDeque<String> = self.lines(&bytes).into();
        if !self.partial.is_empty() {
            lines.push_back(text(&std::mem::take(&mut self.partial)));
        }
        if lines.len() < count
            && let Ok((bytes, _)) = read_end(&self.log.previous())
        {
            let earlier = self.lines(&bytes);
            self.partial.clear();
            earlier.into_iter().rev().for_each(|line| lines.push_front(line));
        }
        lines.drain(..lines.len().saturating_sub(count));
        Ok(lines.into())
    }

    /// The lines that were added since; empty when there is nothing new.
    pub(crate) fn more(&mut self) -> io::Result<Vec<String>> {
        let mut file = File::open(self.log.path())?;
        let mut bytes = Vec::new();
        if file.metadata()?.len() < self.position {
            // It was cut: what was not read yet is in the log before it.
            bytes = read_from(&mut File::open(self.log.previous())?, self.position)?;
            self.position = 0;
        }
        let added = read_from(&mut file, self.position)?;
        self.position += added.len() as u64;
        bytes.extend_from_slice(&added);
        Ok(self.lines(&bytes))
    }

    /// The whole lines of what was read before and of these bytes.
    fn lines(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let is_whole = piece.ends_with(b"\n");
            self.partial.extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            while self.partial.len() > MAX_LINE {
                let rest = self.partial.split_off(MAX_LINE);
                lines.push(text(&std::mem::replace(&mut self.partial, rest)));
            }
            if is_whole {
                lines.push(text(&std::mem::take(&mut self.partial)));
            }
        }
        lines
    }
}

/// The end of a file, from the beginning of a line on, and where the file ends.
fn read_end(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(MAX_LOOK_BACK);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(length - from).read_to_end(&mut bytes)?;
    let end = from + bytes.len() as u64;
    if from > 0 {
        let line = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        bytes.drain(..line);
    }
    Ok((bytes, end))
}

fn read_from(file: &mut File, position: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(position))?;
    let mut bytes = Vec::new();
    file.take(MAX_STEP).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_last_lines_reach_into_the_log_before() {
        let (_folder, log, mut writer) = log();
        writer.write_all(b"1\n2\n3\n").unwrap();
        log.cap_at(3).unwrap();
        writer.write_all(b"4\n5").unwrap();
        let last = |count| LogReader::new(log.clone()).last_lines(count).unwrap();
        assert_eq!(last(2), ["4", "5"]);
        assert_eq!(last(4), ["2", "3", "4", "5"]);
        assert_eq!(last(100).len(), 5);
        assert_eq!(last(0), [""; 0]);
    }

    #[test]
    fn what_is_added_comes_line_by_line_also_when_the_log_is_cut() {
        let (_folder, log, mut writer) = log();
        writer.write_all(b"old\n").unwrap();
        let mut reader = LogReader::new(log.clone());
        assert_eq!(reader.last_lines(10).unwrap(), ["old"]);
        assert_eq!(reader.more().unwrap(), [""; 0]);
        writer.write_all(b"half").unwrap();
        assert_eq!(reader.more().unwrap(), [""; 0]);
        writer.write_all(b" a line\n").unwrap();
        assert_eq!(reader.more().unwrap(), ["half a line"]);
        writer.write_all(b"unread\n").unwrap();
        log.cap_at(3).unwrap();
        writer.write_all(b"new\n").unwrap();
        assert_eq!(reader.more().unwrap(), ["unread", "new"]);
    }

    #[test]
    fn a_line_without_end_and_bytes_that_are_no_text_are_shown_in_bounded_parts() {
        let (_folder, log, mut writer) = log();
        writer.write_all(&[0xff].repeat(3 * MAX_LINE)).unwrap();
        writer.write_all(b"\nend\r\n").unwrap();
        let lines = LogReader::new(log).last_lines(10).unwrap();
        assert!(lines.iter().all(|line| line.chars().count() <= MAX_LINE));
        assert_eq!(lines.last().unwrap(), "end");
    }

    fn log() -> (tempfile::TempDir, LogFile, File) {
        let folder = tempfile::tempdir().unwrap();
        let log = LogFile::of(folder.path(), &"w-1".parse().unwrap());
        let (writer, _) = log.open().unwrap();
        (folder, log, writer)
    }
}
