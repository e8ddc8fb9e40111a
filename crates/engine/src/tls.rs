//! The control connection's handshake: TLS 1.3 with Ed25519 raw public keys both ways (RFC 8446,
//! RFC 7250), and the secret that it yields.
//!
//! Who may connect is decided here, by key alone: there are no names and no dates. What is said
//! over the connection, and how long a handshake may take, is the caller's.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use braid_core::key::{KEY_LEN, PrivateKey, PublicKey};
use braid_core::keys::{ALPN, EXPORT_LEN, EXPORTER_LABEL};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ClientConfig, Resumption};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, OtherError,
    PeerMisbehaved, SignatureScheme, version,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// `SubjectPublicKeyInfo` of an Ed25519 key, up to the key (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// PKCS#8 version 1 of an Ed25519 key, up to the seed (RFC 8410 section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why there is no control connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// This box's own key is none.
    #[error("the private key is unusable")]
    Key(#[source] rustls::Error),
    /// A dialler with a key of no peer. It has shown the key, and has not proved it.
    #[error("the key {0} is no peer's")]
    UnknownPeer(PublicKey),
    /// Another box answered than the one dialled. It has shown this key, and has not proved it.
    #[error("another box answered: its key is {0}")]
    WrongPeer(PublicKey),
    /// The dialled box does not have this box among its peers.
    #[error("the peer does not know this box's key")]
    Refused,
    /// TLS, but older, without raw public keys, or for another protocol.
    #[error("speaks another version")]
    OtherVersion,
    /// Not TLS, or not as it should be.
    #[error("TLS handshake: {0}")]
    Handshake(#[source] rustls::Error),
    /// The connection failed.
    #[error("{0}")]
    Io(#[source] io::Error),
}

/// This box's side of control connections: its key, and the keys that may connect.
#[derive(Clone)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    verify: WebPkiSupportedAlgorithms,
    own: Arc<CertifiedKey>,
    server: Arc<ServerConfig>,
}

/// A control connection whose two ends have proved their keys.
pub struct Secured {
    /// The connection. It has to be flushed after writing.
    pub stream: TlsStream<TcpStream>,
    /// The other end's key.
    pub peer: PublicKey,
    /// What both ends know and nobody else: the session's id (8 bytes) and secret (32).
    pub export: [u8; EXPORT_LEN],
}

impl Tls {
    /// For the box with this key; the boxes with the keys `peers` may connect to it.
    ///
    /// # Errors
    /// When the private key is unusable.
    pub fn new(
        private: &PrivateKey,
        peers: impl IntoIterator<Item = PublicKey>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let verify = only_ed25519(&provider).map_err(TlsError::Key)?;
        let own = Arc::new(certified(private).map_err(TlsError::Key)?);
        let peers = peers.into_iter().collect();
        let clients = Arc::new(Clients { peers, verify });
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(TlsError::Key)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own.clone())));
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { provider, verify, own, server: Arc::new(server) })
    }

    /// The acceptor's handshake. Cancelling it closes the connection.
    ///
    /// # Errors
    /// When the other end is no peer, speaks another version or no TLS, or is gone.
    pub async fn accept(&self, stream: TcpStream) -> Result<Secured, TlsError> {
        let stream = TlsAcceptor::from(Arc::clone(&self.server)).accept(stream).await?;
        let export = export(stream.get_ref().1)?;
        secured(stream.into(), export)
    }

    /// The dialler's handshake with the box whose key is `expected`. Cancelling it closes the
    /// connection.
    ///
    /// It ends before the acceptor has judged this box's key. A refusal comes with the first read,
    /// as an I/O error that `TlsError::from` makes [`TlsError::Refused`].
    ///
    /// # Errors
    /// When the other end is another box, speaks another version or no TLS, or is gone.
    pub async fn dial(&self, stream: TcpStream, expected: &PublicKey) -> Result<Secured, TlsError> {
        self.dial_by(self.client(expected)?, stream).await
    }

    async fn dial_by(&self, config: ClientConfig, stream: TcpStream) -> Result<Secured, TlsError> {
        // rustls wants a name; it is neither sent nor looked at.
        let nobody = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let stream = TlsConnector::from(Arc::new(config)).connect(nobody, stream).await?;
        let export = export(stream.get_ref().1)?;
        secured(stream.into(), export)
    }

    fn client(&self, expected: &PublicKey) -> Result<ClientConfig, TlsError> {
        let server = Arc::new(Server { expected: *expected, verify: self.verify });
        let own = Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.own.clone()));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(TlsError::Key)?
            .dangerous()
            .with_custom_certificate_verifier(server)
            .with_client_cert_resolver(own);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What is behind an error of the stream, be it of the handshake or of a read after it.
impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => inner.clone().into(),
            None => Self::Io(error),
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error::{
            AlertReceived, InvalidCertificate, NoApplicationProtocol, PeerIncompatible,
        };
        match &error {
            InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                match inner.downcast_ref::<BadKey>() {
                    Some(BadKey::Unknown(key)) => Self::UnknownPeer(*key),
                    Some(BadKey::Wrong(key)) => Self::WrongPeer(*key),
                    None => Self::Handshake(error),
                }
            }
            AlertReceived(AlertDescription::CertificateUnknown) => Self::Refused,
            PeerIncompatible(_)
            | NoApplicationProtocol
            | AlertReceived(
                AlertDescription::NoApplicationProtocol | AlertDescription::ProtocolVersion,
            ) => Self::OtherVersion,
            _ => Self::Handshake(error),
        }
    }
}

/// A key that is refused. Inside rustls it travels as a certificate's error, for which the other
/// end gets the alert `certificate_unknown`.
#[derive(Debug, thiserror::Error)]
enum BadKey {
    #[error("the key {0} is no peer's")]
    Unknown(PublicKey),
    #[error("the key {0} is another box's")]
    Wrong(PublicKey),
}

impl From<BadKey> for rustls::Error {
    fn from(key: BadKey) -> Self {
        CertificateError::Other(OtherError(Arc::new(key))).into()
    }
}

/// Verifies diallers.
#[derive(Debug)]
struct Clients {
    peers: HashSet<PublicKey>,
    verify: WebPkiSupportedAlgorithms,
}

/// Verifies the acceptor that was dialled.
#[derive(Debug)]
struct Server {
    expected: PublicKey,
    verify: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let key = key_of(shown)?;
        if !self.peers.contains(&key) {
            return Err(BadKey::Unknown(key).into());
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(older_signature())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        proved(message, shown, signature, &self.verify)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verify.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = key_of(shown)?;
        if key != self.expected {
            return Err(BadKey::Wrong(key).into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(older_signature())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        proved(message, shown, signature, &self.verify)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verify.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// TLS 1.2 is not compiled in, so that nobody asks.
fn older_signature() -> rustls::Error {
    PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()
}

fn proved(
    message: &[u8],
    shown: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    verify: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
    crypto::verify_tls13_signature_with_raw_key(message, &key, signature, verify)
}

/// The provider's verification, with all but Ed25519 left out.
fn only_ed25519(provider: &CryptoProvider) -> Result<WebPkiSupportedAlgorithms, rustls::Error> {
    let mapping = provider.signature_verification_algorithms.mapping;
    let wanted = |(scheme, _): &(SignatureScheme, _)| *scheme == SignatureScheme::ED25519;
    let at = mapping.iter().position(wanted);
    let at = at.ok_or_else(|| rustls::Error::General("no Ed25519".into()))?;
    Ok(WebPkiSupportedAlgorithms { all: mapping[at].1, mapping: &mapping[at..=at] })
}

/// The box's key as rustls wants it: the public half stands where a certificate would.
fn certified(private: &PrivateKey) -> Result<CertifiedKey, rustls::Error> {
    let document = [&PKCS8_PREFIX[..], &private.0].concat();
    let key = crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(document))?;
    let public = key.public_key().ok_or_else(|| rustls::Error::General("no public key".into()))?;
    let certificate = CertificateDer::from(public.as_ref().to_vec());
    Ok(CertifiedKey::new(vec![certificate], key))
}

fn key_of(shown: &CertificateDer<'_>) -> Result<PublicKey, rustls::Error> {
    let key = shown.strip_prefix(&SPKI_PREFIX).and_then(|key| <[u8; KEY_LEN]>::try_from(key).ok());
    key.map(PublicKey).ok_or_else(|| CertificateError::BadEncoding.into())
}

fn export<Side>(connection: &rustls::ConnectionCommon<Side>) -> Result<[u8; EXPORT_LEN], TlsError> {
    Ok(connection.export_keying_material([0; EXPORT_LEN], EXPORTER_LABEL, None)?)
}

/// A finished handshake's result. An end that has not said `braid/1` is refused: rustls lets one
/// pass that says nothing.
fn secured(stream: TlsStream<TcpStream>, export: [u8; EXPORT_LEN]) -> Result<Secured, TlsError> {
    let state = stream.get_ref().1;
    if state.alpn_protocol() != Some(ALPN) {
        return Err(TlsError::OtherVersion);
    }
    let shown = state.peer_certificates().and_then(<[_]>::first);
    let peer = key_of(shown.ok_or(rustls::Error::NoCertificatesPresented)?)?;
    Ok(Secured { stream, peer, export })
}

#[cfg(test)]
mod tests;
