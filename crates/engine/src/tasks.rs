//! The tasks of a running box: started from anywhere, ended together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::error;

/// A handle to the set that a box's tasks are in.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    set: Arc<Mutex<JoinSet<()>>>,
}

impl Tasks {
    /// Starts a task that ends with the box at the latest.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut set = self.lock();
        while let Some(ended) = set.try_join_next() {
            report(ended);
        }
        set.spawn(task)
    }

    /// Ends all tasks, and with them every flow, and waits until they are gone.
    pub async fn shutdown(&self) {
        let mut set = std::mem::take(&mut *self.lock());
        set.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!("a task failed: {error}");
    }
}
