//! Wall clocks that jump while a program runs.
//!
//! `libfaketime` stands between a program and the system's clock and reads the offset from a file, again at each call. The
//! monotonic clock is left as it is, as it is when an administrator or NTP sets the time.

use std::path::{Path, PathBuf};

/// A file that says how far a program's wall clock is off.
pub(crate) struct WallClock {
    file: PathBuf,
    library: PathBuf,
}

/// The library, where Debian and others have it.
pub(crate) fn library() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut libraries = places
        .chain(["/usr/lib".into(), "/usr/lib64".into()])
        .map(|place: PathBuf| place.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.is_file())
}

impl WallClock {
    /// One that is right.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let clock =
            Self { file: folder.join("clock"), library: library().context("there is no libfaketime")? };
        clock.jump("+0")?;
        Ok(clock)
    }

    /// From now on it is off by that much, in the words of `faketime`: `+3600`, `-2h`, `-10y`.
    pub(crate) fn jump(&self, offset: &str) -> anyhow::Result<()> {
        // Renamed into place, so that no reader sees half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset}\n"))?;
        Ok(std::fs::rename(&new, &self.file)?)
    }

    /// What makes a program live by it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
