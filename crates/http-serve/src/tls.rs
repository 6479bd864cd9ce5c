//! A certificate that a process makes itself.

use std::{fmt, io, sync::Arc};

use fleet::TlsFingerprint;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer, version::TLS13};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A key that never leaves the process, and the certificate that it signed itself. Clients know it by its fingerprint alone, so
/// name and dates in it are for people who look at it.
#[derive(Clone)]
pub struct Identity {
    fingerprint: TlsFingerprint,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Key or certificate.
    #[error("could not make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// What to serve it with.
    #[error("could not set up TLS")]
    Tls(#[from] rustls::Error),
}

impl Identity {
    /// A new key and its certificate, in which the process is called `name`.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn make(name: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key)?;
        let der = certificate.der().clone();
        let fingerprint = TlsFingerprint::new(Sha256::digest(&der).into());
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        // Named, because a second provider anywhere in the program would make the choice a panic.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![der], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Clients compare the certificate at each connection, which a resumed session does not show.
        config.send_tls13_tickets = 0;
        Ok(Self { fingerprint, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// What clients compare.
    #[must_use]
    pub const fn fingerprint(&self) -> TlsFingerprint {
        self.fingerprint
    }

    /// The server's side of a handshake: a transport for [`Server::transport`](crate::Server::transport), which bounds it.
    ///
    /// # Errors
    /// When the other side speaks no TLS 1.3, or does not want this certificate.
    pub async fn accept<Io>(&self, io: Io) -> io::Result<TlsStream<Io>>
    where
        Io: AsyncRead + AsyncWrite + Unpin,
    {
        self.acceptor.accept(io).await
    }
}
