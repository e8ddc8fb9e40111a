//! Target `control`: a length of pieces, then the bytes of a control connection.

use braid_core::control::{ControlError, MAX_MESSAGE, Message, agree};

use super::input::{Input, in_pieces};

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let lengths = input.array::<2>();
    let bytes = input.rest();

    let whole = all(bytes);
    let (mut cut, mut error) = (Vec::new(), None);
    in_pieces(bytes, &lengths, |buffer| {
        let (mut messages, found) = all(buffer);
        buffer.drain(..messages.iter().map(|(_, used)| used).sum::<usize>());
        cut.append(&mut messages);
        error = found;
        error.is_none()
    });
    assert_eq!(whole, (cut, error), "pieces make no difference");

    agreement(&whole.0);
}

/// All messages at the beginning of `bytes`, and what cannot begin one behind them.
fn all(bytes: &[u8]) -> (Vec<(Option<Message>, usize)>, Option<ControlError>) {
    let (mut messages, mut rest) = (Vec::new(), bytes);
    loop {
        match Message::parse(rest) {
            Ok(Some((message, used))) => {
                judge(message, &rest[..used]);
                messages.push((message, used));
                rest = &rest[used..];
            }
            Ok(None) => {
                assert!(rest.len() < MAX_MESSAGE, "a buffer for the longest message is enough");
                return (messages, None);
            }
            Err(error) => return (messages, Some(error)),
        }
    }
}

fn judge(message: Option<Message>, bytes: &[u8]) {
    assert_eq!(bytes.len(), 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]])));
    assert!((3..=MAX_MESSAGE).contains(&bytes.len()));
    assert_eq!(message.is_none(), bytes[2] >= 0x80, "only what may be missed is");
    assert_eq!(Message::parse(&bytes[..bytes.len() - 1]), Ok(None));
    let Some(message) = message else { return };
    let again = message.encode();
    assert!(again.len() <= bytes.len());
    assert_eq!(again[2], bytes[2]);
    assert_eq!(Message::parse(&again), Ok(Some((Some(message), again.len()))));
}

fn agreement(messages: &[(Option<Message>, usize)]) {
    let mut hellos = messages.iter().filter_map(|(message, _)| match message {
        Some(Message::Hello(hello)) => Some(hello),
        _ => None,
    });
    if let (Some(ours), Some(theirs)) = (hellos.next(), hellos.next()) {
        let terms = agree(ours, theirs);
        assert_eq!(terms, agree(theirs, ours));
        assert!(terms.carriers >= 2);
    }
}
