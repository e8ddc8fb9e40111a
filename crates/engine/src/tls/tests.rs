//! Handshakes over loopback: who gets through, who is refused, and as what.

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn private(number: u8) -> PrivateKey {
    PrivateKey([number; KEY_LEN])
}

fn public(number: u8) -> PublicKey {
    let pair = Ed25519KeyPair::from_seed_unchecked(&private(number).0).unwrap();
    PublicKey(pair.public_key().as_ref().try_into().unwrap())
}

fn tls(own: u8, peers: &[u8]) -> Tls {
    Tls::new(&private(own), peers.iter().map(|&peer| public(peer))).unwrap()
}

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// Both ends' results of box `dialler` dialling `expected` at `acceptor`.
async fn handshake(
    dialler: &Tls,
    expected: u8,
    acceptor: &Tls,
) -> (Result<Secured, TlsError>, Result<Secured, TlsError>) {
    let (near, far) = connection().await;
    let expected = public(expected);
    tokio::join!(dialler.dial(near, &expected), acceptor.accept(far))
}

/// The acceptor's judgement of a dialler that sends these bytes and waits, and what that one gets.
async fn sent(bytes: &[u8]) -> (TlsError, Vec<u8>) {
    let (mut near, far) = connection().await;
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let error = tls(2, &[1]).accept(far).await.unwrap_err();
    let mut answer = Vec::new();
    let _ = near.read_to_end(&mut answer).await;
    (error, answer)
}

#[tokio::test]
async fn both_ends_know_each_other_and_the_same_secret() {
    let (one, two) = (tls(1, &[]), tls(2, &[3, 1]));
    let (near, far) = handshake(&one, 2, &two).await;
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    assert_eq!((near.peer, far.peer), (public(2), public(1)));
    assert_eq!(near.export, far.export);
    near.stream.write_all(b"hello").await.unwrap();
    near.stream.flush().await.unwrap();
    let mut got = [0; 5];
    far.stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");

    let (again, _) = handshake(&one, 2, &two).await;
    assert_ne!(again.unwrap().export, near.export);
}

#[tokio::test]
async fn an_unknown_dialler_is_refused_and_named_and_told() {
    let (near, far) = handshake(&tls(4, &[]), 2, &tls(2, &[1, 3])).await;
    let error = far.unwrap_err();
    assert!(matches!(error, TlsError::UnknownPeer(key) if key == public(4)), "{error}");
    // The dialler is through before it is judged.
    let told = near.unwrap().stream.read(&mut [0; 1]).await.unwrap_err();
    assert!(matches!(TlsError::from(told), TlsError::Refused));
}

#[tokio::test]
async fn another_box_than_the_one_dialled_is_refused_and_named() {
    let (near, far) = handshake(&tls(1, &[]), 2, &tls(5, &[1])).await;
    let error = near.unwrap_err();
    assert!(matches!(error, TlsError::WrongPeer(key) if key == public(5)), "{error}");
    assert!(far.is_err());
}

#[tokio::test]
async fn a_key_that_is_only_shown_is_refused() {
    let (mut thief, two) = (tls(4, &[]), tls(2, &[1]));
    let shown = CertificateDer::from([&SPKI_PREFIX[..], &public(1).0].concat());
    thief.own = Arc::new(CertifiedKey::new(vec![shown], thief.own.key.clone()));
    let (_, far) = handshake(&thief, 2, &two).await;
    let bad = rustls::Error::InvalidCertificate(CertificateError::BadSignature);
    let error = far.unwrap_err();
    assert!(matches!(&error, TlsError::Handshake(inner) if *inner == bad), "{error}");
}

#[tokio::test]
async fn a_dialler_of_another_protocol_or_of_none_is_refused() {
    let (one, two) = (tls(1, &[]), tls(2, &[1]));
    for protocols in [vec![b"braid/2".to_vec()], vec![]] {
        let mut config = one.client(&public(2)).unwrap();
        let named = !protocols.is_empty();
        config.alpn_protocols = protocols;
        let (near, far) = connection().await;
        let (near, far) = tokio::join!(one.dial_by(config, near), two.accept(far));
        assert!(matches!(near.unwrap_err(), TlsError::OtherVersion), "{named}");
        assert!(matches!(far.unwrap_err(), TlsError::OtherVersion), "{named}");
    }
}

#[tokio::test]
async fn an_acceptor_without_protocol_is_refused() {
    let (one, mut two) = (tls(1, &[]), tls(2, &[1]));
    Arc::get_mut(&mut two.server).unwrap().alpn_protocols = vec![];
    let (near, _) = handshake(&one, 2, &two).await;
    assert!(matches!(near.unwrap_err(), TlsError::OtherVersion));
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    // A ClientHello without the extension `supported_versions` offers TLS 1.2 at most.
    let extensions = [
        &[0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x1d][..], // supported_groups: x25519
        &[0x00, 0x0d, 0, 4, 0, 2, 0x08, 0x07],     // signature_algorithms: ed25519
    ]
    .concat();
    let body = [
        &[0x03, 0x03][..],
        &[7; 32],            // random
        &[0],                // session id
        &[0, 2, 0xc0, 0x2b], // cipher suites: TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        &[1, 0],             // compression: none
        &[0, extensions.len() as u8],
        &extensions,
    ]
    .concat();
    let length = body.len() as u8;
    let hello = [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat();
    let (error, answer) = sent(&hello).await;
    assert!(matches!(error, TlsError::OtherVersion), "{error:?}");
    // A fatal alert, protocol_version.
    assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 70]);
}

#[tokio::test]
async fn what_is_not_tls_is_refused() {
    let mut random = vec![0x16];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), {
        random.resize(600, 0);
        &mut random[1..]
    })
    .unwrap();
    for bytes in [&random[..], &[0xff; 600], b"GET / HTTP/1.1\r\n\r\n"] {
        let (error, _) = sent(bytes).await;
        assert!(matches!(error, TlsError::Handshake(_) | TlsError::Io(_)), "{error:?}");
    }
    let (error, _) = sent(b"").await;
    assert!(matches!(&error, TlsError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof));
}

#[test]
fn the_public_half_is_the_prefix_and_the_key() {
    let own = tls(1, &[]).own;
    assert_eq!(own.cert[0].as_ref(), [&SPKI_PREFIX[..], &public(1).0].concat());
    assert_eq!(key_of(&own.cert[0]).unwrap(), public(1));
    for wrong in [&own.cert[0][..43], &[0; 44][..]] {
        assert!(key_of(&CertificateDer::from(wrong)).is_err());
    }
}

#[test]
fn nothing_shows_the_private_key() {
    let (text, number) = (format!("{:?} {:?}", tls(251, &[]), tls(251, &[]).own), "251");
    assert!(!text.contains(number) && !text.contains("fb, fb"), "{text}");
}
