//! From a URL to a directory, and everything that can go wrong between.

use std::{fs, os::unix::fs::PermissionsExt};

use engine_store::EngineError;
use fleet::Digest;

use crate::server::{Act, Kept, Server, digest};

/// A program of some length.
fn program() -> Vec<u8> {
    let mut program = b"#!/bin/sh\n".to_vec();
    program.extend((0..3_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()));
    program
}

#[tokio::test]
async fn an_engine_is_fetched_once_and_kept() {
    let program = program();
    let server = Server::start(program.clone(), vec![Act::Give]).await;
    let kept = Kept::new();
    let (got, told) = kept.told(&server.url(), digest(&program)).await;
    let folder = got.unwrap();
    let path = folder.join("llama-server");
    assert_eq!(fs::read(&path).unwrap(), program);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    let last = told.last().unwrap();
    assert_eq!((last.bytes, last.total), (program.len() as u64, Some(program.len() as u64)));
    assert!(told.is_sorted_by_key(|progress| progress.bytes), "{told:?}");
    assert_eq!(kept.left(), [digest(&program).to_string()], "nothing else is left");
    // Neither again, nor by the next queen, nor from somewhere else.
    assert_eq!(kept.get(&server.url(), digest(&program)).await.unwrap(), folder);
    let later = Kept::over(kept.dir);
    let nowhere = "http://127.0.0.1:1/x".parse().unwrap();
    assert_eq!(later.get(&nowhere, digest(&program)).await.unwrap(), folder);
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn hives_that_start_at_the_same_time_share_one_transfer() {
    let program = program();
    let server = Server::start(program.clone(), vec![Act::Give]).await;
    let kept = Kept::new();
    let (url, sha256) = (server.url(), digest(&program));
    let (a, b, c) = tokio::join!(kept.get(&url, sha256), kept.get(&url, sha256), kept.get(&url, sha256));
    assert_eq!(a.unwrap(), b.unwrap());
    c.unwrap();
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn whoever_began_it_may_leave() {
    let program = program();
    let server = Server::start(program.clone(), vec![Act::HangAfter(1_000_000), Act::Give]).await;
    let kept = Kept::new();
    let url = server.url();
    let impatient = kept.get(&url, digest(&program));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), impatient).await.is_err());
    kept.get(&url, digest(&program)).await.unwrap();
    assert_eq!(
        *server.ranges.lock().unwrap(),
        [None, Some(1_000_000)],
        "the second one waited for the first"
    );
}

#[tokio::test]
async fn a_transfer_that_is_cut_or_stalls_goes_on_where_it_ended() {
    let program = program();
    for act in [Act::CutAfter(700_000), Act::HangAfter(700_000)] {
        let server = Server::start(program.clone(), vec![act, Act::Status(503), Act::Give]).await;
        let kept = Kept::new();
        let folder = kept.get(&server.url(), digest(&program)).await.unwrap();
        assert_eq!(fs::read(folder.join("llama-server")).unwrap(), program);
        let ranges = server.ranges.lock().unwrap().clone();
        assert_eq!(ranges, [None, Some(700_000), Some(700_000)]);
    }
}

#[tokio::test]
async fn what_came_is_kept_for_the_next_queen() {
    let program = program();
    let server = Server::start(program.clone(), vec![Act::CutAfter(700_000), Act::Status(500)]).await;
    let kept = Kept::new();
    let error = kept.get(&server.url(), digest(&program)).await.unwrap_err();
    assert!(matches!(*error, EngineError::Broke { .. }) && error.is_worth_a_retry(), "{error}");
    assert_eq!(server.count(), 3, "it was tried again as often as it should");
    let later = Kept::over(kept.dir);
    for act in [Act::Give, Act::GiveAll] {
        let server = Server::start(program.clone(), vec![act]).await;
        later.get(&server.url(), digest(&program)).await.unwrap();
        assert_eq!(*server.ranges.lock().unwrap(), [Some(700_000)]);
        // Once more, with a server that knows no ranges.
        fs::remove_dir_all(later.dir.path().join("engines").join(digest(&program).to_string())).unwrap();
        let part = later.dir.path().join("engines").join(format!("{}.part", digest(&program)));
        fs::write(part, &program[..700_000]).unwrap();
    }
}

#[tokio::test]
async fn a_wrong_digest_leaves_nothing() {
    let server = Server::start(program(), vec![Act::Give]).await;
    let kept = Kept::new();
    let wanted = Digest::from_bytes([7; 32]);
    let error = kept.get(&server.url(), wanted).await.unwrap_err();
    assert!(matches!(*error, EngineError::Digest { .. }) && !error.is_worth_a_retry(), "{error}");
    let told = error.to_string();
    assert!(told.contains(&wanted.to_string()) && told.contains(&digest(&program()).to_string()), "{told}");
    assert_eq!(kept.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_damaged_beginning_is_fetched_anew() {
    let program = program();
    let kept = Kept::new();
    let part = kept.dir.path().join("engines").join(format!("{}.part", digest(&program)));
    // The second one is longer than the file itself.
    for (damage, ranges) in
        [(vec![0; 1000], vec![Some(1000), None]), (vec![0; 4_000_000], vec![Some(4_000_000), None])]
    {
        let server = Server::start(program.clone(), vec![Act::Give]).await;
        fs::create_dir_all(part.parent().unwrap()).unwrap();
        fs::write(&part, damage).unwrap();
        let folder = kept.get(&server.url(), digest(&program)).await.unwrap();
        assert_eq!(*server.ranges.lock().unwrap(), ranges);
        fs::remove_dir_all(folder).unwrap();
    }
}

#[tokio::test]
async fn what_was_whole_already_is_not_fetched_again() {
    let program = program();
    let kept = Kept::new();
    let part = kept.dir.path().join("engines").join(format!("{}.part", digest(&program)));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, &program).unwrap();
    let nowhere = "http://127.0.0.1:1/x".parse().unwrap();
    kept.get(&nowhere, digest(&program)).await.unwrap();
}

#[tokio::test]
async fn redirects_are_followed_as_far_as_they_may_lead() {
    let program = program();
    let server = Server::start(program.clone(), vec![Act::Give]).await;
    let mut there = server.url().as_str().to_owned();
    let mut servers = Vec::new();
    for _ in 0..5 {
        let next = Server::start(Vec::new(), vec![Act::To(there)]).await;
        there = next.url().as_str().to_owned();
        servers.push(next);
    }
    Kept::new().get(&there.parse().unwrap(), digest(&program)).await.unwrap();
    let one_more = Server::start(Vec::new(), vec![Act::To(there)]).await;
    let error = Kept::new().get(&one_more.url(), digest(&program)).await.unwrap_err();
    assert!(error.to_string().contains("more than 5 times"), "{error}");

    let around = Server::start(Vec::new(), vec![Act::To("/llama".to_owned())]).await;
    let error = Kept::new().get(&around.url(), digest(&program)).await.unwrap_err();
    assert!(matches!(*error, EngineError::Redirect { .. }) && !error.is_worth_a_retry(), "{error}");
    assert_eq!(around.count(), 6, "five redirects, and no more");
}

#[tokio::test]
async fn a_redirect_to_another_machine_without_tls_is_refused() {
    for target in
        ["http://192.0.2.1/llama", "ftp://127.0.0.1/llama", "http://me@127.0.0.1/llama", "file:///etc"]
    {
        let server = Server::start(Vec::new(), vec![Act::To(target.to_owned())]).await;
        let error = Kept::new().get(&server.url(), digest(b"")).await.unwrap_err();
        assert!(matches!(*error, EngineError::Redirect { .. }), "{target}: {error}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_told_without_the_right_to_read_it() {
    let server = Server::start(Vec::new(), vec![Act::Status(404)]).await;
    let error = Kept::new().get(&server.url(), digest(b"")).await.unwrap_err();
    assert!(matches!(*error, EngineError::Refused { status: 404, .. }), "{error}");
    assert_eq!(server.count(), 1, "asking again does not help");
    let nobody = "http://127.0.0.1:1/llama?key=secret".parse().unwrap();
    let unreached = Kept::new().get(&nobody, digest(b"")).await.unwrap_err();
    assert!(unreached.is_worth_a_retry());
    for error in [error, unreached] {
        let told = format!("{error}");
        assert!(told.contains("http://127.0.0.1") && !told.contains("secret"), "{told}");
    }
}
