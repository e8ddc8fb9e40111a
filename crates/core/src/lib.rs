//! The pure part of braid: no I/O, no clock, no unsafe.
