//! An engine's process, started by this hive or by its predecessor.

use std::time::Duration;

use process::{Child, Exit, LogFile, Process, ProcessError};

#[derive(Debug)]
pub(crate) enum Running {
    /// A child of this process, which has to be waited for.
    Own(Box<Child>),
    /// A predecessor's, which init waits for. How it ended cannot be seen.
    Adopted(Process, LogFile),
}

const UNSEEN: Exit = Exit { code: None, signal: None };

impl Running {
    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::Own(child) => child.process(),
            Self::Adopted(process, _) => process,
        }
    }

    /// Waits for its end; may be dropped and called again.
    pub(crate) async fn wait(&mut self) -> Exit {
        match self {
            Self::Own(child) => child.wait().await.unwrap_or_else(unseen),
            Self::Adopted(process, log) => {
                process.exited_with_log(log).await;
                // Engines of several processes leave the others behind when the first one dies.
                if let Err(error) = process.signal_group(process::Signal::KILL) {
                    tracing::warn!(%error, "could not end what a worker left behind");
                }
                UNSEEN
            }
        }
    }

    /// Asks it to end, ends it by force after `grace`.
    pub(crate) async fn stop(&mut self, grace: Duration) -> Exit {
        match self {
            Self::Own(child) => child.stop(grace).await.unwrap_or_else(unseen),
            Self::Adopted(process, _) => match process.stop(grace).await {
                Ok(_) => UNSEEN,
                Err(error) => unseen(error),
            },
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that unwrap_or_else wants")]
fn unseen(error: ProcessError) -> Exit {
    tracing::warn!(%error, "could not see how a worker ended");
    UNSEEN
}
