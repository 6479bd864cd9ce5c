//! The files of a hive for one kind of machine, as they lie here.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use fleet::{EngineName, Target};
use sha2::{Digest, Sha256};

use crate::{Settings, built::Built};

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
    /// The program is for another kind of machine, or none.
    #[error("{} is no program for {target}{}. Give one that was built for it", path.display(), instead(*.built))]
    Foreign {
        /// The program.
        path: PathBuf,
        /// The kind of machine that it was to run on.
        target: Target,
        /// The kind that it was built for, if that can be told.
        built: Option<Target>,
    },
    /// An engine is not what its entry says.
    #[error("the engine {} cannot be brought: {reason}", path.display())]
    Engine {
        /// Its file or directory.
        path: PathBuf,
        /// Why.
        reason: String,
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

fn instead(built: Option<Target>) -> String {
    built.map(|built| format!(", but for {built}")).unwrap_or_default()
}

/// An engine as it lies here: the program, or a directory with it and the libraries that it wants beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EngineFiles {
    /// The name of its program.
    pub(crate) name: EngineName,
    pub(crate) path: PathBuf,
    /// SHA-256 of the program, if it is to be checked.
    pub(crate) sha256: Option<fleet::Digest>,
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
    /// The files for a kind of machine, these engines among them. Reads them whole.
    pub(crate) fn find(
        &self,
        settings: &Settings,
        target: Target,
        engines: &[EngineFiles],
    ) -> Result<Bundle, BundleError> {
        let candidates = candidates(settings, target);
        let hive = candidates.iter().find(|path| is_program(path));
        let Some(hive) = hive else { return Err(BundleError::Missing { target, tried: candidates }) };
        let worker = hive.with_file_name(WORKER);
        let mut files = vec![self.program(HIVE, hive, target)?];
        if is_program(&worker) {
            files.push(self.program(WORKER, &worker, target)?);
        }
        for engine in engines {
            // The first of a name is the preferred one.
            if !files.iter().any(|file| file.name == engine.name.as_str()) {
                self.engine(engine, target, &mut files)?;
            }
        }
        Ok(Bundle::of(files))
    }

    fn engine(
        &self,
        engine: &EngineFiles,
        target: Target,
        files: &mut Vec<BundleFile>,
    ) -> Result<(), BundleError> {
        let program = engine.name.as_str();
        let refused = |reason: String| BundleError::Engine { path: engine.path.clone(), reason };
        let read = |source| BundleError::Read { path: engine.path.clone(), source };
        let mut named = Vec::new();
        if engine.path.is_dir() {
            for entry in engine.path.read_dir().map_err(read)? {
                let path = entry.map_err(read)?.path();
                if path.is_file() {
                    named.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path));
                }
            }
            named.sort();
        } else {
            named.push((program.to_owned(), engine.path.clone()));
        }
        if !named.iter().any(|(name, _)| name == program) {
            return Err(refused(format!("it holds no {program}")));
        }
        for (name, path) in named {
            if !EngineName::is_legal(&name) || files.iter().any(|file| file.name == name) {
                return Err(refused(format!("{name:?} is no name for a file beside the hive")));
            }
            let file =
                if name == program { self.program(&name, &path, target) } else { self.file(&name, &path) }?;
            if let (true, Some(wanted)) = (name == program, &engine.sha256)
                && wanted.to_string() != file.sha256
            {
                return Err(refused(format!("its SHA-256 is {}, and {wanted} is configured", file.sha256)));
            }
            files.push(file);
        }
        Ok(())
    }

    fn program(&self, name: &str, path: &Path, target: Target) -> Result<BundleFile, BundleError> {
        let mut head = [0; 20];
        let read = File::open(path).and_then(|file| file.read_at(&mut head, 0));
        let count = read.map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
        let built = Built::of(&head[..count]);
        if !built.runs_on(target) {
            let built = if let Built::For(built) = built { Some(built) } else { None };
            return Err(BundleError::Foreign { path: path.to_owned(), target, built });
        }
        self.file(name, path)
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
        let bytes = seen.bytes;
        // Held while the file is read: several machines that want it at once are one reading.
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let sha256 = match digests.get(&seen) {
            Some(sha256) => sha256.clone(),
            None => digests.entry(seen).or_insert(digest(&mut file).map_err(failed)?).clone(),
        };
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
        let missing = bundles.find(&settings, target, &[]).expect_err("there is none");
        let BundleError::Missing { tried, .. } = &missing else { unreachable!("{missing}") };
        assert!(tried.contains(&dir.path().join("macos-aarch64/rbee-hive")), "{missing}");
        program(&dir.path().join("macos-aarch64/rbee-hive"), "#!hive");
        let alone = bundles.find(&settings, target, &[]).expect("a bundle");
        assert_eq!(alone.files.len(), 1);
        // `printf '#!hive' | sha256sum`
        let expected = "f982b05f3742dda631dbb616947ce9ff948c8fb448ca2c24d9661bbf1e92b9d5";
        assert_eq!(alone.files[0].sha256, expected);
        program(&dir.path().join("macos-aarch64/llm-worker-rbee"), "#!worker");
        let both = bundles.find(&settings, target, &[]).expect("a bundle");
        assert_eq!(both.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), [HIVE, WORKER]);
        assert_ne!(both.id, alone.id);
    }

    #[test]
    fn a_configured_program_has_no_substitute_and_a_change_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mine");
        let mut settings = Settings { bundle_dirs: vec![dir.path().to_owned()], ..Settings::default() };
        settings.binaries.insert(Target::own(), path.clone());
        program(&dir.path().join(Target::own().to_string()).join(HIVE), "#!another");
        let bundles = Bundles::default();
        assert!(bundles.find(&settings, Target::own(), &[]).is_err());
        program(&path, "#!one");
        let one = bundles.find(&settings, Target::own(), &[]).expect("a bundle");
        assert_eq!(bundles.find(&settings, Target::own(), &[]).expect("a bundle"), one);
        program(&path, "#!two");
        assert_ne!(bundles.find(&settings, Target::own(), &[]).expect("a bundle").id, one.id);
    }

    #[test]
    fn a_program_for_another_machine_is_refused_here_and_not_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hive");
        let mut settings = Settings::default();
        settings.binaries.insert(Target::own(), path.clone());
        for text in ["\u{7f}ELF\u{2}\u{1}\u{1}000000000\u{2}0\u{f3}\u{0}", "text", ""] {
            program(&path, text);
            let refused = Bundles::default().find(&settings, Target::own(), &[]).expect_err(text);
            assert!(matches!(refused, BundleError::Foreign { built: None, .. }), "{refused}");
        }
    }

    #[test]
    fn an_engine_is_a_program_or_a_directory_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let hive = dir.path().join("hive");
        program(&hive, "#!hive");
        for name in ["vulkan/llama-server", "vulkan/libggml.so.0", "cpu"] {
            program(&dir.path().join(name), &format!("#!{name}"));
        }
        let engine = |path: &str| EngineFiles {
            name: "llama-server".parse().expect("a name"),
            path: dir.path().join(path),
            sha256: None,
        };
        let mut settings = Settings::default();
        settings.binaries.insert(Target::own(), hive);
        let find = |engines: &[EngineFiles]| Bundles::default().find(&settings, Target::own(), engines);
        let names = |engines: &[EngineFiles]| {
            let bundle = find(engines).expect("a bundle");
            bundle.files.into_iter().map(|file| file.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[engine("cpu")]), [HIVE, "llama-server"]);
        assert_eq!(names(&[engine("vulkan"), engine("cpu")]), [HIVE, "libggml.so.0", "llama-server"]);
        let other = EngineFiles { sha256: Some(fleet::Digest::from_bytes([0; 32])), ..engine("cpu") };
        let refused = find(&[other]).expect_err("another digest");
        let BundleError::Engine { reason, .. } = &refused else { unreachable!("{refused}") };
        assert!(reason.contains("SHA-256"), "{refused}");
        let own = EngineFiles { name: HIVE.parse().expect("a name"), ..engine("cpu") };
        assert_eq!(names(&[own]).len(), 1, "nothing takes the hive's place");
    }
}
