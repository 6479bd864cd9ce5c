//! From what was fetched to a program with its libraries beside it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use fleet::EngineName;
use tar::{Archive, Entry, EntryType};

/// An archive whose files are larger together is no engine.
const LARGEST: u64 = 16 << 30;

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unpacked {
    Whole,
    NoProgram,
    NotAnArchive(String),
}

/// Puts the program and its libraries into the empty folder. The error is of the disk.
pub(crate) fn unpack(fetched: &Path, folder: &Path, program: &str) -> io::Result<Unpacked> {
    let mut file = File::open(fetched)?;
    let mut magic = [0; 4];
    let read = file.read(&mut magic)?;
    file.rewind()?;
    match &magic[..read] {
        [0x1f, 0x8b, ..] => archive(&mut file, folder, program),
        [b'P', b'K', ..] => Ok(Unpacked::NotAnArchive("it is a zip file".to_owned())),
        _ => Ok(match write(&mut file, &folder.join(program))? {
            Written::Whole => Unpacked::Whole,
            Written::Unreadable(error) => return Err(error),
        }),
    }
}

type Packed<'a, 'f> = Entry<'a, GzDecoder<&'f mut File>>;

fn archive(file: &mut File, folder: &Path, program: &str) -> io::Result<Unpacked> {
    let home = match home(file, program) {
        Ok(Some(home)) => home,
        Ok(None) => return Ok(Unpacked::NoProgram),
        Err(error) => return Ok(Unpacked::NotAnArchive(error.to_string())),
    };
    file.rewind()?;
    let mut archive = Archive::new(GzDecoder::new(file));
    let mut links: Vec<(String, String)> = Vec::new();
    let mut bytes = 0;
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => return Ok(Unpacked::NotAnArchive(error.to_string())),
    };
    for entry in entries {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => return Ok(Unpacked::NotAnArchive(error.to_string())),
        };
        let Some(name) = wanted(&entry, &home, program) else { continue };
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::GNUSparse => {
                bytes += entry.size();
                if bytes > LARGEST {
                    return Ok(Unpacked::NotAnArchive(format!("it holds more than {LARGEST} bytes")));
                }
                if let Written::Unreadable(error) = write(&mut entry, &folder.join(name))? {
                    return Ok(Unpacked::NotAnArchive(error.to_string()));
                }
            }
            EntryType::Symlink | EntryType::Link => links.extend(target(&entry, &home).map(|to| (name, to))),
            _ => {}
        }
    }
    link(folder, links)?;
    Ok(if folder.join(program).is_file() { Unpacked::Whole } else { Unpacked::NoProgram })
}

/// The directory of the program inside the archive; of several, the shallowest.
fn home(file: &mut File, program: &str) -> io::Result<Option<PathBuf>> {
    let mut homes = Vec::new();
    for entry in Archive::new(GzDecoder::new(file)).entries()? {
        let entry = entry?;
        let path = entry.path()?;
        let is_file =
            matches!(entry.header().entry_type(), EntryType::Regular | EntryType::Symlink | EntryType::Link);
        if is_file && path.file_name().is_some_and(|name| name == program) {
            homes.push(path.parent().unwrap_or(Path::new("")).to_owned());
        }
    }
    Ok(homes.into_iter().min_by_key(|home| home.components().count()))
}

/// The name of an entry that the program wants beside it, or that is the program.
fn wanted(entry: &Packed<'_, '_>, home: &Path, program: &str) -> Option<String> {
    let path = entry.path().ok()?;
    if path.parent() != Some(home) {
        return None;
    }
    let name = path.file_name()?.to_str()?;
    (EngineName::is_legal(name) && (name == program || is_library(name))).then(|| name.to_owned())
}

/// Releases hold dozens of programs that nobody here starts; what one of them loads are libraries and shaders.
fn is_library(name: &str) -> bool {
    name.contains(".so.") || [".so", ".dylib", ".metal", ".metallib"].iter().any(|end| name.ends_with(end))
}

/// What a link stands for, if that is a file beside it.
fn target(entry: &Packed<'_, '_>, home: &Path) -> Option<String> {
    let target = entry.link_name().ok()??;
    // A symbolic link starts at its own directory, a hard one at the archive's root.
    let beside = match entry.header().entry_type() {
        EntryType::Symlink => target.parent() == Some(Path::new("")),
        _ => target.parent() == Some(home),
    };
    let name = target.file_name()?.to_str()?;
    beside.then(|| name.to_owned())
}

/// Links become second names of the files they stand for: what is pushed to a machine are files.
fn link(folder: &Path, mut links: Vec<(String, String)>) -> io::Result<()> {
    loop {
        let (ready, later): (Vec<_>, Vec<_>) =
            links.into_iter().partition(|(_, target)| folder.join(target).is_file());
        if ready.is_empty() {
            // What is left leads nowhere, or in a circle.
            return Ok(());
        }
        for (name, target) in ready {
            match fs::hard_link(folder.join(target), folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        links = later;
    }
}

/// Whether what was to be written could be read.
enum Written {
    Whole,
    Unreadable(io::Error),
}

/// The error is of the disk that is written to.
fn write(from: &mut impl Read, path: &Path) -> io::Result<Written> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(path)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => file.write_all(&buffer[..count])?,
            Err(error) => return Ok(Written::Unreadable(error)),
        }
    }
    file.sync_all()?;
    Ok(Written::Whole)
}
