//! The files of a hive for one kind of machine, as they lie here.

use std::{
    collections::BTreeMap,
    env, fmt,
    fs::File,
    io::{self, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use crate::Settings;

/// The operating system of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Os {
    /// Linux, WSL2 included.
    Linux,
    /// macOS.
    Macos,
}

/// The processor of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// Intel's and AMD's 64 bits.
    X86_64,
    /// ARM's 64 bits.
    Aarch64,
}

/// A kind of machine that one build of the hive runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Its operating system.
    pub os: Os,
    /// Its processor.
    pub arch: Arch,
}

impl Target {
    /// This machine's kind.
    #[must_use]
    pub const fn own() -> Self {
        Self {
            os: if cfg!(target_os = "macos") { Os::Macos } else { Os::Linux },
            arch: if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 },
        }
    }

    /// What `uname -s` and `uname -m` mean.
    pub(crate) fn of(system: &str, machine: &str) -> Option<Self> {
        let os = match system {
            "Linux" => Os::Linux,
            "Darwin" => Os::Macos,
            _ => return None,
        };
        let arch = match machine {
            "x86_64" | "amd64" => Arch::X86_64,
            "aarch64" | "arm64" => Arch::Aarch64,
            _ => return None,
        };
        Some(Self { os, arch })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let os = match self.os {
            Os::Linux => "linux",
            Os::Macos => "macos",
        };
        let arch = match self.arch {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        };
        write!(f, "{os}-{arch}")
    }
}

/// Why a string names no kind of machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no kind of machine; there are linux-x86_64, linux-aarch64, macos-x86_64 and macos-aarch64")]
pub struct TargetError(String);

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let all = [Os::Linux, Os::Macos]
            .into_iter()
            .flat_map(|os| [Arch::X86_64, Arch::Aarch64].map(|arch| Self { os, arch }));
        let mut named = all.filter(|target| target.to_string() == text);
        named.next().ok_or_else(|| TargetError(text.chars().take(40).collect()))
    }
}

/// One file to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// Its name there.
    pub name: String,
    /// Where it lies here.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// Why there is nothing to bring.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No hive for that kind of machine.
    #[error(
        "there is no rbee-hive for {target}: looked for {}. Put one there (`cargo xtask dist` makes it on such a machine), or \
         name it in the configuration", paths(.tried)
    )]
    Missing {
        /// The kind.
        target: Target,
        /// Where it was looked for, in order.
        tried: Vec<PathBuf>,
    },
    /// One of the files cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

fn paths(tried: &[PathBuf]) -> String {
    tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The hive's program.
pub(crate) const HIVE: &str = "rbee-hive";

/// The built-in worker, which comes along where it lies beside the hive.
const WORKER: &str = "llm-worker-rbee";

/// The files of one hive, and the name that their contents give them together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) id: String,
    pub(crate) files: Vec<BundleFile>,
}

impl Bundle {
    fn of(files: Vec<BundleFile>) -> Self {
        let mut digest = Sha256::new();
        for file in &files {
            digest.update(format!("{} {}\n", file.sha256, file.name));
        }
        Self { id: hex(&digest.finalize()), files }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Finds bundles, and remembers digests of files that did not change since.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bundles {
    digests: Arc<Mutex<BTreeMap<Seen, String>>>,
}

/// A file as it was when its digest was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    path: PathBuf,
    inode: u64,
    bytes: u64,
    modified: SystemTime,
}

impl Bundles {
    /// The files for a kind of machine. Reads them whole.
    pub(crate) fn find(&self, settings: &Settings, target: Target) -> Result<Bundle, BundleError> {
        let candidates = candidates(settings, target);
        let hive = candidates.iter().find(|path| is_program(path));
        let Some(hive) = hive else { return Err(BundleError::Missing { target, tried: candidates }) };
        let worker = hive.with_file_name(WORKER);
        let mut files = vec![self.file(HIVE, hive)?];
        if is_program(&worker) {
            files.push(self.file(WORKER, &worker)?);
        }
        Ok(Bundle::of(files))
    }

    fn file(&self, name: &str, path: &Path) -> Result<BundleFile, BundleError> {
        let failed = |source| BundleError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let seen = Seen {
            path: path.to_owned(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: metadata.modified().map_err(failed)?,
        };
        let remembered = self.digests.lock().unwrap_or_else(PoisonError::into_inner).get(&seen).cloned();
        let sha256 = match remembered {
            Some(sha256) => sha256,
            None => digest(&mut file).map_err(failed)?,
        };
        let bytes = seen.bytes;
        self.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(seen, sha256.clone());
        Ok(BundleFile { name: name.to_owned(), path: path.to_owned(), bytes, sha256 })
    }
}

fn digest(file: &mut File) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            count => digest.update(&buffer[..count]),
        }
    }
}

fn candidates(settings: &Settings, target: Target) -> Vec<PathBuf> {
    if let Some(path) = settings.binaries.get(&target) {
        return vec![path.clone()];
    }
    let own = env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let below = |dir: &PathBuf| {
        [dir.join("hives").join(target.to_string()).join(HIVE), dir.join(target.to_string()).join(HIVE)]
    };
    let mut candidates: Vec<PathBuf> = own.iter().chain(&settings.bundle_dirs).flat_map(below).collect();
    if let (Some(own), true) = (own, target == Target::own()) {
        candidates.push(own.join(HIVE));
    }
    candidates
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    fn program(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a mode");
    }

    #[test]
    fn a_bundle_is_the_hive_with_what_lies_beside_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = Settings { bundle_dirs: vec![dir.path().to_owned()], ..Settings::default() };
        let target: Target = "macos-aarch64".parse().expect("a target");
        let bundles = Bundles::default();
        let missing = bundles.find(&settings, target).expect_err("there is none");
        let BundleError::Missing { tried, .. } = &missing else { unreachable!("{missing}") };
        assert!(tried.contains(&dir.path().join("macos-aarch64/rbee-hive")), "{missing}");
        program(&dir.path().join("macos-aarch64/rbee-hive"), "hive");
        let alone = bundles.find(&settings, target).expect("a bundle");
        assert_eq!(alone.files.len(), 1);
        // `printf hive | sha256sum`
        let expected = "7640da40298286a6e462d5a80f1c608b0df8660fb13bd5aad0f32b6db68b42c0";
        assert_eq!(alone.files[0].sha256, expected);
        program(&dir.path().join("macos-aarch64/llm-worker-rbee"), "worker");
        let both = bundles.find(&settings, target).expect("a bundle");
        assert_eq!(both.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), [HIVE, WORKER]);
        assert_ne!(both.id, alone.id);
    }

    #[test]
    fn a_configured_program_has_no_substitute_and_a_change_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mine");
        let mut settings = Settings { bundle_dirs: vec![dir.path().to_owned()], ..Settings::default() };
        settings.binaries.insert(Target::own(), path.clone());
        program(&dir.path().join(Target::own().to_string()).join(HIVE), "another");
        let bundles = Bundles::default();
        assert!(bundles.find(&settings, Target::own()).is_err());
        program(&path, "one");
        let one = bundles.find(&settings, Target::own()).expect("a bundle");
        assert_eq!(bundles.find(&settings, Target::own()).expect("a bundle"), one);
        program(&path, "two");
        assert_ne!(bundles.find(&settings, Target::own()).expect("a bundle").id, one.id);
    }

    #[test]
    fn kinds_of_machine_read_back() {
        for (system, machine, name) in [
            ("Linux", "x86_64", "linux-x86_64"),
            ("Linux", "aarch64", "linux-aarch64"),
            ("Darwin", "arm64", "macos-aarch64"),
        ] {
            let target = Target::of(system, machine).expect(name);
            assert_eq!((target.to_string().as_str(), name.parse()), (name, Ok(target)));
        }
        assert_eq!(Target::of("FreeBSD", "amd64"), None);
        assert_eq!(Target::of("Linux", "riscv64"), None);
    }
}
