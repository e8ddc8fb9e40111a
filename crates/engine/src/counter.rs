//! Counts things by who holds them: a thing that is gone, however it went, does not count.

use std::sync::Arc;

/// A count of things.
#[derive(Debug, Default)]
pub(crate) struct Counter(Arc<()>);

/// One of the things counted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    _count: Arc<()>,
}

impl Counter {
    /// Counts one more.
    pub(crate) fn add(&self) -> Counted {
        Counted { _count: Arc::clone(&self.0) }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        // One is the counter's own.
        Arc::strong_count(&self.0) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_does_not_count() {
        let counter = Counter::default();
        let (one, two) = (counter.add(), counter.add());
        assert_eq!(counter.count(), 2);
        drop(one);
        assert_eq!(counter.count(), 1);
        drop(two);
        assert_eq!(counter.count(), 0);
    }
}
