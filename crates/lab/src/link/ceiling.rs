//! What the emulator itself can carry.
