//! An engine that does what a test tells it to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;

use crate::engine::{Engine, EngineError, Event, Order, Prompt, Started};

/// One step of the script.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Do(Event),
    Fail(&'static str),
    /// Nothing more happens, ever.
    Hang,
    Pause(Duration),
}

/// Plays its script for every order.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    script: Vec<Step>,
    refusal: Option<EngineError>,
    prompts: Mutex<Vec<Prompt>>,
}

impl Scripted {
    pub(crate) fn new(script: Vec<Step>) -> Arc<Self> {
        Arc::new(Self { script, ..Self::default() })
    }

    pub(crate) fn refusing(refusal: EngineError) -> Arc<Self> {
        Arc::new(Self { refusal: Some(refusal), ..Self::default() })
    }

    pub(crate) fn prompts(&self) -> Vec<Prompt> {
        self.prompts.lock().unwrap().clone()
    }
}

#[async_trait]
impl Engine for Scripted {
    fn context(&self) -> u32 {
        128
    }

    async fn start(&self, order: Order) -> Result<Started, EngineError> {
        self.prompts.lock().unwrap().push(order.prompt);
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        // The slot travels with the script, so a test sees when the events were dropped.
        let state = (self.script.clone().into_iter(), order.slot);
        let events = futures_util::stream::unfold(state, |(mut script, slot)| async move {
            loop {
                match script.next()? {
                    Step::Do(event) => return Some((Ok(event), (script, slot))),
                    Step::Fail(why) => {
                        return Some((Err(EngineError::Failed(why.to_owned())), (script, slot)));
                    }
                    Step::Hang => std::future::pending().await,
                    Step::Pause(time) => tokio::time::sleep(time).await,
                }
            }
        });
        Ok(Started { prompt_tokens: 3, events: events.boxed() })
    }
}
