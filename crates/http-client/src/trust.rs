//! Whose certificate is accepted.

use std::{
    error::Error,
    io,
    sync::{Arc, LazyLock},
};

use fleet::TlsFingerprint;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::{TLS12, TLS13},
};
use sha2::{Digest, Sha256};

/// Whose certificate is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trust {
    /// This one certificate's. Plain HTTP is refused.
    Pinned(TlsFingerprint),
    /// Those that the system's authorities vouch for, or Mozilla's where the system has none.
    Public,
    /// Nobody's: for what is reached over plain HTTP only.
    Nobody,
}

impl From<Option<TlsFingerprint>> for Trust {
    fn from(pin: Option<TlsFingerprint>) -> Self {
        pin.map_or(Self::Nobody, Self::Pinned)
    }
}

/// Another certificate was shown than the pinned one. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it shows the certificate {found}, and {}", wanted(*.expected))]
pub struct WrongCertificate {
    /// What was pinned, if anything was.
    pub expected: Option<TlsFingerprint>,
    /// What was shown.
    pub found: TlsFingerprint,
}

fn wanted(expected: Option<TlsFingerprint>) -> String {
    match expected {
        Some(pin) => format!("only {pin} is expected there; nothing was sent to it"),
        None => "no fingerprint of its certificate is known here; nothing was sent to it".to_owned(),
    }
}

/// The wrong certificate at the root of an error of either client, if that is what it was.
#[must_use]
pub fn wrong_certificate(error: &(dyn Error + 'static)) -> Option<WrongCertificate> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) =
            error.downcast_ref()
        {
            return inner.downcast_ref().cloned();
        }
        // An I/O error hides the error it was made from: its source is that one's source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Named everywhere, because a second provider anywhere in the program would make the choice a panic.
static RING: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));

impl Trust {
    /// What a handshake goes by.
    pub(crate) fn config(self) -> ClientConfig {
        let versions: &[_] = match self {
            Self::Public => &[&TLS13, &TLS12],
            Self::Pinned(_) | Self::Nobody => &[&TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&RING))
            .with_protocol_versions(versions)
            .expect("ring has cipher suites of both versions");
        let mut config = match self {
            Self::Public => builder.with_root_certificates(authorities()).with_no_client_auth(),
            Self::Pinned(_) | Self::Nobody => {
                let pin = if let Self::Pinned(pin) = self { Some(pin) } else { None };
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Pinned { pin }))
                    .with_no_client_auth()
            }
        };
        if self != Self::Public {
            // A resumed session shows no certificate, and the name of a hive's machine is nobody's business.
            config.resumption = Resumption::disabled();
            config.enable_sni = false;
        }
        config
    }
}

fn authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// Accepts one certificate, or none, and checks that its key made the handshake.
#[derive(Debug)]
struct Pinned {
    pin: Option<TlsFingerprint>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = TlsFingerprint::new(Sha256::digest(end_entity).into());
        if self.pin == Some(found) {
            return Ok(ServerCertVerified::assertion());
        }
        let wrong = WrongCertificate { expected: self.pin, found };
        Err(CertificateError::Other(OtherError(Arc::new(wrong))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &RING.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &RING.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        RING.signature_verification_algorithms.supported_schemes()
    }
}
