//! How many bytes of a flow may be on their way on a shared carrier (PROTOCOL.md, "Credit").
//!
//! Without it one flow whose reader stalls would stop the others. Counting only: holding the bytes
//! is the engine's. A single carrier needs none of this, its back-pressure is the kernel's.

/// What a flow may send in each direction before any `credit`.
pub const FIRST_CREDIT: usize = 65_536;

/// The most bytes of a direction that may be on their way.
pub const MAX_CREDIT: usize = 4_194_304;

/// Credit beyond [`MAX_CREDIT`], or bytes beyond the credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreditError {
    /// The other side has sent more than it was given.
    #[error("{0} bytes came, {1} were allowed")]
    Overrun(usize, usize),
    /// The other side has given more than it may.
    #[error("credit of {0} bytes beside {1} that are left")]
    Excess(u32, usize),
}

/// What this side may still send of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendCredit {
    available: usize,
}

impl Default for SendCredit {
    fn default() -> Self {
        Self { available: FIRST_CREDIT }
    }
}

impl SendCredit {
    /// Bytes that may be sent now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.available
    }

    /// Counts bytes that are sent.
    ///
    /// # Panics
    /// When they are more than are available.
    pub fn spend(&mut self, bytes: usize) {
        assert!(bytes <= self.available, "no more is sent than the credit allows");
        self.available -= bytes;
    }

    /// Counts a `credit` that came.
    ///
    /// # Errors
    /// When it is more than may ever be on the way.
    pub fn add(&mut self, bytes: u32) -> Result<(), CreditError> {
        let room = MAX_CREDIT - self.available;
        match usize::try_from(bytes) {
            Ok(added) if added <= room => self.available += added,
            _ => return Err(CreditError::Excess(bytes, self.available)),
        }
        Ok(())
    }
}

/// What the other side may still send of a flow, and when it is given more.
///
/// `allowed + held + owed` is the window, always. It grows while the local end keeps up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveCredit {
    /// What the other side may still send.
    allowed: usize,
    /// What came and the local end has not taken.
    held: usize,
    /// What the local end has taken and the other side has not been given again.
    owed: usize,
    window: usize,
    /// Whether nothing was held at some time since the last `credit`.
    ran_empty: bool,
    /// What the local end has taken without falling behind.
    kept_up: usize,
}

impl Default for ReceiveCredit {
    fn default() -> Self {
        Self {
            allowed: FIRST_CREDIT,
            held: 0,
            owed: 0,
            window: FIRST_CREDIT,
            ran_empty: false,
            kept_up: 0,
        }
    }
}

impl ReceiveCredit {
    /// Counts bytes that came.
    ///
    /// # Errors
    /// When they are more than was given.
    pub fn arrived(&mut self, bytes: usize) -> Result<(), CreditError> {
        if bytes > self.allowed {
            return Err(CreditError::Overrun(bytes, self.allowed));
        }
        self.allowed -= bytes;
        self.held += bytes;
        Ok(())
    }

    /// What may come in all, the bytes held included. A box has to be able to hold as much.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// Counts bytes that the local end has taken: what `credit` to send now, if any. The window
    /// doubles where that is of use, if it `may_grow`.
    ///
    /// # Panics
    /// When they are more than are held.
    pub fn consumed(&mut self, bytes: usize, may_grow: bool) -> Option<u32> {
        assert!(bytes <= self.held, "no more is taken than came");
        self.held -= bytes;
        self.owed += bytes;
        self.ran_empty |= self.held == 0;
        (self.owed >= self.window / 2).then(|| self.give(may_grow))
    }

    fn give(&mut self, may_grow: bool) -> u32 {
        // While the window does not grow this does: beyond what 32 bits hold, in time.
        self.kept_up = if self.ran_empty { self.kept_up.saturating_add(self.owed) } else { 0 };
        self.ran_empty = false;
        let mut given = std::mem::take(&mut self.owed);
        if may_grow && self.kept_up >= self.window && self.window < MAX_CREDIT {
            given += self.window;
            self.window *= 2;
            self.kept_up = 0;
        }
        self.allowed += given;
        given as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stalled_reader_gets_its_first_credit_and_no_more() {
        let mut credit = ReceiveCredit::default();
        credit.arrived(FIRST_CREDIT).unwrap();
        assert_eq!(credit.arrived(1), Err(CreditError::Overrun(1, 0)));
        assert_eq!(credit.consumed(FIRST_CREDIT / 2 - 1, true), None);
        assert_eq!(credit.consumed(1, true), Some(FIRST_CREDIT as u32 / 2));
    }

    #[test]
    fn a_reader_that_keeps_up_gets_the_whole_credit_and_one_that_does_not_keeps_its_window() {
        let (mut fast, mut slow) = (ReceiveCredit::default(), ReceiveCredit::default());
        slow.arrived(1).unwrap();
        for _ in 0..1000 {
            for credit in [&mut fast, &mut slow] {
                credit.arrived(10_000).unwrap();
                credit.consumed(10_000, true);
            }
        }
        assert_eq!((fast.window, slow.window), (MAX_CREDIT, FIRST_CREDIT));
    }

    #[test]
    fn more_credit_than_there_may_be_is_refused() {
        let mut credit = SendCredit::default();
        let room = (MAX_CREDIT - FIRST_CREDIT) as u32;
        assert_eq!(credit.add(room + 1), Err(CreditError::Excess(room + 1, FIRST_CREDIT)));
        assert_eq!(credit.add(room), Ok(()));
        assert!(credit.add(u32::MAX).is_err());
        credit.spend(MAX_CREDIT);
        assert_eq!(credit.available(), 0);
    }

    proptest! {
        /// A sender that uses all it has, a reader that takes what it likes, when it likes.
        #[test]
        fn neither_side_breaks_its_word_and_nothing_stands_still(
            steps in proptest::collection::vec((0_usize..100_000, 0_usize..100_000, any::<bool>()), 0..200),
        ) {
            let (mut send, mut receive) = (SendCredit::default(), ReceiveCredit::default());
            let (mut flying, mut granted) = (0, Vec::new());
            for (sent, taken, arrives) in steps {
                let sent = sent.min(send.available());
                send.spend(sent);
                flying += sent;
                if arrives {
                    receive.arrived(std::mem::take(&mut flying)).unwrap();
                    granted.drain(..).for_each(|bytes| send.add(bytes).unwrap());
                }
                granted.extend(receive.consumed(taken.min(receive.held), sent % 2 == 0));
                prop_assert_eq!(receive.allowed + receive.held + receive.owed, receive.window);
                prop_assert!(receive.window <= MAX_CREDIT);
            }
            receive.arrived(flying).unwrap();
            granted.extend(receive.consumed(receive.held, true));
            granted.drain(..).for_each(|bytes| send.add(bytes).unwrap());
            prop_assert_eq!(send.available(), receive.allowed);
            prop_assert!(send.available() > receive.window / 2);
        }
    }
}
