//! The queen's own log file, where whoever started her made her write into one.

use std::{os::fd::AsFd, os::unix::fs::MetadataExt, path::Path};

use process::LogFile;

/// The file, if that is where standard error goes: `rbee up` leaves it open and ends, so nobody else keeps it from growing.
pub(crate) fn own(data_dir: &Path) -> Option<LogFile> {
    let path = data_dir.join("queen.log");
    let (there, here) = (path.metadata().ok()?, rustix::fs::fstat(std::io::stderr().as_fd()).ok()?);
    #[expect(clippy::unnecessary_cast, reason = "these have other widths on other systems")]
    let same = (there.dev(), there.ino()) == (here.st_dev as u64, here.st_ino as u64);
    same.then(|| LogFile::new(path))
}
