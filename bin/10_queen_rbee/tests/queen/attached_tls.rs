//! Servers of others that are reached by TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbee_operations::{Operation, WorkerAttach};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::attached::{attach, fails, models, succeeds};
use crate::support::{Home, Queen, ServerDouble, chat, until};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_server_behind_tls_is_listed_asked_and_watched() {
    let server = ServerDouble::start("vllm", &["m"], []);
    let front = Front::of(&server, "localhost").await;
    let queen = queen(Some(&front.authority)).await;
    succeeds(&queen, attach(&front.url)).await;
    assert_eq!(models(&queen).await, ["m"]);
    let reply = queen.ask(CHAT, &chat()).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello world", "{reply:?}");
    let transcript = queen.stream(CHAT, &chat()).await.begun().await.rest().await;
    assert_eq!(transcript.text(), "Hello world");
    let worker = queen.status().await["workers"][0].clone();
    assert_eq!(worker["server"]["url"], front.url, "{worker}");
    drop(front);
    until("the server is missed", async || {
        queen.status().await["workers"][0]["state"] != json!("ready")
    })
    .await;
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_or_another_host_is_refused() {
    let server = ServerDouble::start("vllm", &["m"], []);
    let (front, other) =
        (Front::of(&server, "localhost").await, Front::of(&server, "other.example").await);
    let strict = queen(None).await;
    let why = refused(&strict, attach(&front.url)).await;
    assert!(why.contains("UnknownIssuer") || why.contains("queen.server_ca_file"), "{why}");
    let queen = queen(Some(&other.authority)).await;
    let why = refused(&queen, attach(&other.url)).await;
    assert!(why.contains("other.example") && why.contains("must be for the host"), "{why}");
    assert!(!why.contains("start it"), "{why}");
    assert!(server.paths().is_empty(), "nobody was asked anything");
}

#[tokio::test]
async fn a_url_with_the_other_scheme_is_told_to_whoever_gave_the_wrong_one() {
    let server = ServerDouble::start("vllm", &["m"], []);
    let front = Front::of(&server, "localhost").await;
    let queen = queen(Some(&front.authority)).await;
    let secure = server.url.replace("http://", "https://");
    let why = refused(&queen, attach(&secure)).await;
    let tried = format!("it does not speak TLS: try {}", server.url);
    assert!(why.contains(&tried) && !why.contains("start it"), "{why}");
    let plain = front.url.replace("https://", "http://");
    let why = refused(&queen, attach(&plain)).await;
    assert!(why.contains(&format!("if it speaks TLS: {}", front.url)), "{why}");
    assert!(server.paths().is_empty(), "nobody was asked anything");
}

#[tokio::test]
async fn a_file_of_authorities_that_cannot_be_used_is_named() {
    let server = ServerDouble::start("vllm", &["m"], []);
    let front = Front::of(&server, "localhost").await;
    let folder = Home::new();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    for file in [folder.path().join("missing.pem"), empty] {
        let queen = queen(Some(&file)).await;
        let why = refused(&queen, attach(&front.url)).await;
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(why.contains(name) && why.contains("queen.server_ca_file"), "{why}");
        assert!(why.contains("read again at the next connection"), "{why}");
    }
}

/// A queen that looks often, and believes who is in a file.
async fn queen(authority: Option<&Path>) -> Queen {
    Queen::configured(|config| {
        config.worker.heartbeat_interval_ms = 50;
        config.queen.server_ca_file = authority.map(PathBuf::from);
    })
    .await
}

async fn refused(queen: &Queen, attach: WorkerAttach) -> String {
    fails(queen, Operation::WorkerAttach(attach), "server_unusable").await
}

/// TLS in front of a double, with a certificate of an authority of its own.
struct Front {
    url: String,
    /// The certificate of its authority.
    authority: PathBuf,
    _folder: Home,
    _stop: DropGuard,
}

impl Front {
    async fn of(server: &ServerDouble, host: &str) -> Self {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        let folder = Home::new();
        let authority = folder.path().join("ca.pem");
        std::fs::write(&authority, ca_certificate.pem()).unwrap();

        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let (acceptor, port) = (TlsAcceptor::from(Arc::new(config)), server.port);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let stop = CancellationToken::new();
        let (tasks, stopped) = (TaskTracker::new(), stop.clone());
        tasks.clone().spawn(stopped.clone().run_until_cancelled_owned(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let acceptor = acceptor.clone();
                tasks.spawn(stopped.clone().run_until_cancelled_owned(async move {
                    // A client that does not believe the certificate ends the connection here.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }));
            }
        }));
        Self { url, authority, _folder: folder, _stop: stop.drop_guard() }
    }
}
