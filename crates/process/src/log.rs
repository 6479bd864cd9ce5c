//! Log files of processes: append only, never above a cap, read from their end.
//!
//! The child holds the file itself, so it cannot be renamed away from under it: a rotation copies the end of the file to
//! `<name>.1` and truncates it. The file is opened for appending, hence the child goes on writing at the new end. What is
//! written between copy and truncation is lost, which a log can bear; a pipe would lose nothing and stop the child as soon
//! as nobody reads.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::ProcessError;

/// Cap of a log file unless said otherwise, in bytes.
pub const DEFAULT_CAP: u64 = 16 * 1024 * 1024;

/// How often a file's size is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// Most that [`tail`] reads of one file, and most that a rotation keeps, in bytes.
const TAIL_BYTES: u64 = 512 * 1024;

/// Longest line that [`tail`] gives, in characters.
const LINE_CHARS: usize = 2000;

/// A file that a process writes to, and its cap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFile {
    /// Where it is. `<path>.1` beside it holds the end of what was cut off.
    pub path: PathBuf,
    /// Size from which on it is cut, in bytes.
    pub cap: u64,
}

impl LogFile {
    /// A log with the default cap.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), cap: DEFAULT_CAP }
    }

    pub(crate) fn open(&self) -> Result<File, ProcessError> {
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path);
        opened.map_err(|source| ProcessError::Log { path: self.path.clone(), source })
    }

    /// Cuts the file whenever it has outgrown its cap. Never ends; several processes may do so for the same file.
    pub async fn keep_below_cap(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.cut_and_report();
        }
    }

    pub(crate) fn cut_and_report(&self) {
        if let Err(error) = self.cut() {
            tracing::warn!(path = %self.path.display(), %error, "could not cut a log file");
        }
    }

    /// Cuts the file if it has outgrown its cap.
    fn cut(&self) -> io::Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if metadata.size() > self.cap => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        // Whoever comes second finds a short file and nothing to do.
        if file.try_lock().is_err() || file.metadata()?.size() <= self.cap {
            return Ok(());
        }
        let end = read_end(&mut file)?;
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        let mut kept = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(old)?;
        // A full disk must not keep the log from being cut.
        let written = kept.write_all(&end);
        file.set_len(0)?;
        written
    }
}

fn read_end(file: &mut File) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.size();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
    let mut end = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut end)?;
    Ok(end)
}

/// The last `lines` lines of a log, oldest first; fewer if there are no more, none if there is no file. Reads at most
/// 512 KiB of the file and of what was last cut off.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    let mut found = last_lines(path);
    if found.len() < lines {
        let mut before = last_lines(Path::new(&old));
        before.append(&mut found);
        found = before;
    }
    found.split_off(found.len().saturating_sub(lines))
}

fn last_lines(path: &Path) -> Vec<String> {
    let Ok(end) = File::open(path).and_then(|mut file| read_end(&mut file)) else { return Vec::new() };
    let text = String::from_utf8_lossy(&end);
    text.lines().map(|line| line.chars().take(LINE_CHARS).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_beyond_its_cap_is_cut_and_its_end_kept() {
        let directory = tempfile::tempdir().unwrap();
        let log = LogFile { path: directory.path().join("log"), cap: 100 };
        let mut writer = log.open().unwrap();
        for i in 0..50 {
            writeln!(writer, "line {i}").unwrap();
        }
        log.cut().unwrap();
        assert_eq!(std::fs::metadata(&log.path).unwrap().len(), 0);
        writeln!(writer, "line 50").unwrap();
        assert_eq!(
            std::fs::read_to_string(&log.path).unwrap(),
            "line 50\n",
            "the writer goes on at the new end"
        );
        assert_eq!(tail(&log.path, 2), ["line 49", "line 50"]);
        assert_eq!(tail(&log.path, 1000).len(), 51);
    }

    #[test]
    fn a_log_within_its_cap_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let log = LogFile { path: directory.path().join("log"), cap: 100 };
        log.cut().unwrap();
        log.open().unwrap().write_all(&[b'x'; 100]).unwrap();
        log.cut().unwrap();
        assert_eq!(std::fs::metadata(&log.path).unwrap().len(), 100);
    }

    #[test]
    fn the_tail_of_a_missing_or_binary_file_is_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert_eq!(tail(&path, 5), Vec::<String>::new());
        std::fs::write(&path, [0xff, b'\n', 0xfe, b'a']).unwrap();
        assert_eq!(tail(&path, 1), ["\u{fffd}a"]);
    }
}
