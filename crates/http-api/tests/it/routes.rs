//! Who may call what.

use http_api::ROUTES;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::rig::{Queen, Wishes, http};

const TOKEN: &str = "0123456789abcdef";
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

async fn guarded() -> Queen {
    Queen::alone(Wishes { token: Some(TOKEN), ..Wishes::default() }).await
}

#[tokio::test]
async fn every_method_of_every_route_but_two_asks_for_the_token() {
    let queen = guarded().await;
    let paths = ROUTES.iter().map(|(_, path, open)| (*path, *open)).chain([("/", false), ("/v1/no", false)]);
    for (path, open) in paths {
        for method in METHODS {
            for sent in [None, Some("Bearer wrong"), Some("Basic 0123456789abcdef"), Some("Bearer ")] {
                let method = method.parse().unwrap();
                let mut request = http().request(method, queen.url(path));
                if let Some(sent) = sent {
                    request = request.header("authorization", sent);
                }
                let answer = request.send().await.unwrap();
                assert_eq!(answer.status() == 401, !open, "{path} {sent:?} {}", answer.status());
                assert!(open || answer.headers()["www-authenticate"] == "Bearer");
                assert!(answer.headers().contains_key("x-request-id"));
            }
        }
    }
    for sent in [format!("Bearer {TOKEN}"), format!("bearer {TOKEN}")] {
        let answer = queen.get("/v1/hives/list").header("authorization", sent).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn the_table_of_routes_is_what_is_routed() {
    let queen = Queen::alone(Wishes::default()).await;
    for (method, path, _) in ROUTES {
        for other in METHODS {
            let takes = |method| ROUTES.iter().any(|route| (route.0, route.1) == (method, *path));
            let expected = takes(other) || (other == "HEAD" && takes("GET"));
            // Streams have no end, and the real calls are tested elsewhere.
            if expected && (*path == "/v1/events" || *path == "/v1/shutdown") {
                continue;
            }
            let request = http().request(other.parse().unwrap(), queen.url(path));
            let answer = request.body("{}").send().await.unwrap();
            let status = answer.status().as_u16();
            assert_eq!(status != 405, expected, "{other} {path}: {status}");
            if status == 405 {
                let allowed = answer.headers().get("allow").map(|v| v.to_str().unwrap().to_owned());
                assert!(allowed.as_deref().is_some_and(|a| a.contains(method)), "{path}: {allowed:?}");
            }
        }
    }
}

#[test]
fn the_page_names_every_route_and_no_other() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/queen-api.md")).unwrap();
    let row = |line: &str| line.strip_prefix("| `")?.split_once("` | ").map(|(route, _)| route.to_owned());
    let mut listed: Vec<_> = page.lines().filter_map(row).filter(|route| route.contains(" /")).collect();
    let mut routed: Vec<_> = ROUTES.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    listed.sort_unstable();
    routed.sort_unstable();
    assert_eq!(listed, routed);
}

#[tokio::test]
async fn what_is_not_there_is_told_in_the_shape_of_the_path() {
    let queen = Queen::alone(Wishes::default()).await;
    let body = |answer: reqwest::Response| async { answer.json::<Value>().await.unwrap() };
    let own = body(queen.get("/v1/nothing").send().await.unwrap()).await;
    assert_eq!(own["error"]["code"], "not_found");
    assert!(own["error"]["message"].as_str().unwrap().contains("/v1/nothing"));
    let openai = body(queen.get("/v1/embeddings").send().await.unwrap()).await;
    assert_eq!(
        (&openai["error"]["code"], &openai["error"]["type"]),
        (&"not_found".into(), &"not_found_error".into())
    );
    let own = body(queen.get("/v1/infer").send().await.unwrap()).await;
    assert_eq!(own["error"]["code"], "method_not_allowed");
    let openai = body(queen.get("/v1/completions").send().await.unwrap()).await;
    assert_eq!(openai["error"]["type"], "invalid_request_error");
}

#[tokio::test]
async fn a_request_keeps_its_clients_name_for_it_or_gets_one() {
    let queen = Queen::alone(Wishes::default()).await;
    let named = |name: &'static str| {
        let request = queen.get("/v1/nothing").header("x-request-id", name);
        async move { request.send().await.unwrap().headers()["x-request-id"].to_str().unwrap().to_owned() }
    };
    assert_eq!(named("mine-7").await, "mine-7");
    for unusable in ["", "a b", "../x", &*"x".repeat(500).leak()] {
        let made = named(unusable).await;
        assert!(made != unusable && !made.is_empty(), "{made:?}");
    }
}

#[tokio::test]
async fn strange_requests_get_an_answer_or_an_end() {
    let queen = Queen::alone(Wishes::default()).await;
    for request in [
        "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "TRACE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET http://127.0.0.1/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /\r\n\r\n",
        "HEAD /healthz HTTP/1.0\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
        "POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(queen.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(crate::rig::PATIENCE, stream.read_to_end(&mut answer));
        let _ = read.await.unwrap_or_else(|_| panic!("{request:?} hangs"));
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains(" 500 "), "{request:?}: {answer}");
    }
}
