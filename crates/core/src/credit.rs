//! How many bytes of a flow may be on their way on a shared carrier (PROTOCOL.md, "Credit").
//!
//! Without it one flow whose reader stalls would stop the others. Counting only: holding the bytes
//! is the engine's. A single carrier needs none of this, its back-pressure is the kernel's.

/// What a flow may send in each direction before any `credit`.
pub const FIRST_CREDIT: usize = 65_536;

/// The most bytes of a direction that may be on their way.
pub const MAX_CREDIT: usize = 1_048_576;

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

    /// Counts bytes that the local end has taken: what `credit` to send now, if any.
    ///
    /// # Panics
    /// When they are more than are held.
    pub fn consumed(&mut self, bytes: usize) -> Option<u32> {
        assert!(bytes <= self.held, "no more is taken than came");
        self.held -= bytes;
        self.owed += bytes;
        self.ran_empty |= self.held == 0;
        (self.owed >= self.window / 2).then(|| self.give())
    }

    fn give(&mut self) -> u32 {
        self.kept_up = if self.ran_empty { self.kept_up + self.owed } else { 0 };
        self.ran_empty = false;
        let mut given = std::mem::take(&mut self.owed);
        if self.kept_up >= self.window && self.window < MAX_CREDIT {
            given += self.window;
            self.window *= 2;
            self.kept_up = 0;
        }
        self.allowed += given;
        given as u32
    }
}
