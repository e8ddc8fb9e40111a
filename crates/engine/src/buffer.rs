//! Buffers for flows, lent while bytes are on their way and given back when a flow rests: an idle
//! flow holds none.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Bytes in a buffer: the longest record, and room to read on while one is not whole.
pub const BUFFER_LEN: usize = 40 * 1024;

/// Buffers kept for the next flow: 1.25 MiB at most.
const KEPT: usize = 32;

static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer of [`BUFFER_LEN`] bytes, with whatever its last user left in it.
#[derive(Debug)]
pub struct Buffer(Option<Box<[u8]>>);

impl Buffer {
    /// Takes a buffer from the pool, or a new one.
    #[must_use]
    pub fn take() -> Self {
        let kept = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(Some(kept.unwrap_or_else(|| vec![0; BUFFER_LEN].into_boxed_slice())))
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = self.0.take().filter(|_| pool.len() < KEPT) {
            pool.push(bytes);
        }
    }
}
