//! A thread that owns a database connection and runs one job after the other.

use std::thread::{Builder, JoinHandle};

use fleet::StoreError;
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{OpenError, QueueFull},
    session::Session,
};

/// How many calls may wait. More than that come only from a caller that does not wait for its answers.
const CAPACITY: usize = 1024;

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// One named thread with its connection. Dropping it takes no new job, finishes those that wait, closes the connection
/// and joins the thread.
pub(crate) struct Lane {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    /// Starts the thread.
    pub(crate) fn start(name: &'static str, mut session: Session) -> Result<Self, OpenError> {
        let (jobs, mut queue) = mpsc::channel::<Job>(CAPACITY);
        let work = move || {
            while let Some(job) = queue.blocking_recv() {
                job(&mut session);
            }
        };
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map_err(|source| OpenError::Thread { name, source })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs a job on the thread and waits for its answer without blocking the caller's.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        action: &'static str,
        job: impl FnOnce(&mut Session) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Closed { action };
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |session| {
            // A caller that left wants no answer; the job counts all the same.
            let _left = reply.send(job(session));
        });
        match self.jobs.as_ref().ok_or_else(closed)?.try_send(job) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(StoreError::Other { action, source: Box::new(QueueFull { capacity: CAPACITY }) });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(closed()),
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // A thread that panicked has closed its connection while it unwound; there is nothing more to do about it here.
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}
