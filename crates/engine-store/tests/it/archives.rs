//! What comes out of an archive, and what does not.

use std::{fs, path::PathBuf, sync::Arc};

use engine_store::EngineError;
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

use crate::server::{Act, Kept, Server, digest};

struct Packing(Builder<GzEncoder<Vec<u8>>>);

impl Packing {
    fn new() -> Self {
        Self(Builder::new(GzEncoder::new(Vec::new(), Compression::fast())))
    }

    /// Names are written as they are, however a well-behaved packer would write them.
    fn entry(mut self, kind: EntryType, name: &str, link: &str, content: &str) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let raw = header.as_old_mut();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content.as_bytes()).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", content)
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, "")
    }

    fn packed(self) -> Vec<u8> {
        self.0.into_inner().unwrap().finish().unwrap()
    }
}

async fn fetched(archive: Vec<u8>) -> (Kept, Result<PathBuf, Arc<EngineError>>) {
    let server = Server::start(archive.clone(), vec![Act::Give]).await;
    let kept = Kept::new();
    let got = kept.get(&server.url(), digest(&archive)).await;
    (kept, got)
}

fn names(folder: &PathBuf) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<_> = entries
        .inspect(|entry| assert!(entry.file_type().unwrap().is_file(), "{entry:?}"))
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_archive_is_the_program_with_the_libraries_beside_it() {
    let archive = Packing::new()
        .file("llama-b7000/LICENSE", "free")
        .file("llama-b7000/llama-bench", "another program")
        .symlink("llama-b7000/libggml.so", "libggml.so.0")
        .symlink("llama-b7000/libggml.so.0", "libggml.so.0.9.4")
        .file("llama-b7000/libggml.so.0.9.4", "library")
        .file("llama-b7000/libggml-vulkan.so", "vulkan")
        .file("llama-b7000/llama-server", "program")
        .file("llama-b7000/old/llama-server", "another one, deeper");
    let (_kept, got) = fetched(archive.packed()).await;
    let folder = got.unwrap();
    let expected = ["libggml-vulkan.so", "libggml.so", "libggml.so.0", "libggml.so.0.9.4", "llama-server"];
    assert_eq!(names(&folder), expected);
    assert_eq!(fs::read_to_string(folder.join("libggml.so")).unwrap(), "library");
    assert_eq!(fs::read_to_string(folder.join("llama-server")).unwrap(), "program");
}

#[tokio::test]
async fn nothing_comes_out_beside_the_directory() {
    let archive = Packing::new()
        .file("../llama-server", "outside")
        .file("/tmp/llama-server.so", "root")
        .symlink("libout.so", "../../../etc/passwd")
        .symlink("libabs.so", "/etc/passwd")
        .symlink("libloop.so", "libloop.so")
        .symlink("liblost.so", "libnowhere.so")
        .entry(EntryType::Link, "libhard.so", "/etc/passwd", "")
        .entry(EntryType::Char, "libdev.so", "", "")
        .file("lib a;b.so", "no name")
        .file("libgood.so", "good")
        .file("llama-server", "program");
    let (kept, got) = fetched(archive.packed()).await;
    assert_eq!(names(&got.unwrap()), ["libgood.so", "llama-server"]);
    assert_eq!(fs::read_dir(kept.dir.path()).unwrap().count(), 1, "only the store is there");
    assert!(!PathBuf::from("/tmp/llama-server.so").exists());
}

#[tokio::test]
async fn what_is_no_engine_is_told() {
    let (kept, got) = fetched(Packing::new().file("a/llama-cli", "program").packed()).await;
    let error = got.unwrap_err();
    assert!(matches!(*error, EngineError::NoProgram { .. }), "{error}");
    assert!(error.to_string().contains("holds no llama-server"), "{error}");
    assert!(!kept.left().contains(&digest(b"").to_string()));

    let broken = {
        let mut whole = Packing::new().file("llama-server", &"program".repeat(100_000)).packed();
        whole.truncate(whole.len() / 2);
        whole
    };
    for (archive, why) in [(broken, "cannot be unpacked"), (b"PK\x03\x04 more".to_vec(), "it is a zip file")]
    {
        let (kept, got) = fetched(archive.clone()).await;
        let error = got.unwrap_err();
        assert!(!error.is_worth_a_retry() && error.to_string().contains(why), "{error}");
        assert!(!kept.left().contains(&digest(&archive).to_string()), "nothing can be taken for an engine");
    }
}
