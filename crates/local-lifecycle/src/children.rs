//! Hives that this process started: each has a task that waits for it, so none becomes a zombie.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use fleet::ProcessIdentity;
use process::{Child, Exit};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// How a child ended, once it has.
pub(crate) type Ended = watch::Receiver<Option<Exit>>;

#[derive(Debug, Clone, Default)]
pub(crate) struct Children {
    living: Arc<Mutex<HashMap<ProcessIdentity, Ended>>>,
    tasks: TaskTracker,
}

impl Children {
    /// Takes over a child; its end can be asked for by its identity.
    pub(crate) fn keep(&self, mut child: Child) -> Ended {
        let (sender, ended) = watch::channel(None);
        let identity = child.identity().clone();
        self.living.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.clone(), ended.clone());
        let living = Arc::clone(&self.living);
        self.tasks.spawn(async move {
            let exit = child.wait().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "could not see how a hive ended");
                Exit { code: None, signal: None }
            });
            sender.send_replace(Some(exit));
            living.lock().unwrap_or_else(PoisonError::into_inner).remove(&identity);
        });
        ended
    }

    /// The end of a process that was started here and was not seen to end yet.
    pub(crate) fn end_of(&self, identity: &ProcessIdentity) -> Option<Ended> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner).get(identity).cloned()
    }
}

/// Waits for the end.
pub(crate) async fn exit(mut ended: Ended) -> Exit {
    let unseen = Exit { code: None, signal: None };
    match ended.wait_for(Option::is_some).await {
        Ok(exit) => exit.unwrap_or(unseen),
        // The task that waits was ended with its runtime.
        Err(_) => unseen,
    }
}
