//! The hook in the library's sampling step through which tokens are chosen and seen.
//!
//! The library calls a *logits processor* once per token of a sequence. This one chooses the token itself and hands back
//! logits that leave no other choice. So the token is known exactly, one by one, before the library has made text of it;
//! see [`crate::vocabulary`] for why that text is not used.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use mistralrs_core::CustomLogitsProcessor;
use tokio::sync::mpsc::Sender;
use worker_http::{EngineError, Event, Finish, Slot};

use crate::sampling::Sampler;
use crate::vocabulary::Vocabulary;

/// What one generation is made of.
pub(crate) struct Picker {
    state: Mutex<State>,
    vocabulary: Arc<Vocabulary>,
    /// The tokens that end a text.
    ends: Arc<[u32]>,
    /// How many tokens to make.
    limit: u32,
    /// The library drops the picker together with the sequence, so the slot is free when the sequence is really gone.
    _slot: Slot,
}

struct State {
    sampler: Sampler,
    events: Sender<Result<Event, EngineError>>,
    made: u32,
    last: Option<u32>,
}

impl Picker {
    pub(crate) fn new(
        sampler: Sampler,
        events: Sender<Result<Event, EngineError>>,
        vocabulary: Arc<Vocabulary>,
        ends: Arc<[u32]>,
        limit: u32,
        slot: Slot,
    ) -> Self {
        let state = Mutex::new(State { sampler, events, made: 0, last: None });
        Self { state, vocabulary, ends, limit, _slot: slot }
    }

    /// The token to take next, reported as an event.
    fn pick(&self, logits: &[f32], context: &[u32]) -> usize {
        // A panic within the lock would have ended the engine's thread and this sequence with it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Should the library have dropped a token that was reported already, the answer would silently be wrong.
        if state.last.is_some_and(|last| context.last() != Some(&last)) {
            state.report(Err(EngineError::Failed("a token was lost between two steps".to_owned())));
        }
        let token = state.sampler.choose(logits);
        let id = u32::try_from(token).unwrap_or(u32::MAX);
        state.last = Some(id);
        if self.ends.contains(&id) {
            state.report(Ok(Event::Finished(Finish::Stop)));
            return token;
        }
        state.made += 1;
        state.report(Ok(Event::Token(self.vocabulary.piece(id).to_vec())));
        if state.made == self.limit {
            state.report(Ok(Event::Finished(Finish::Length)));
        }
        token
    }
}

impl State {
    /// Never waits: the channel has room for everything that one generation can report. It is closed where the client
    /// left, which the library notices by itself at the end of this step.
    fn report(&self, event: Result<Event, EngineError>) {
        if self.events.try_send(event).is_err() {
            tracing::trace!("nobody listens to this generation any more");
        }
    }
}

impl CustomLogitsProcessor for Picker {
    /// An error here would make the library skip the step for all other sequences of its batch, after their tokens were
    /// reported. So there is none: every failure goes to the client instead.
    fn apply(&self, logits: &Tensor, context: &[u32]) -> candle_core::Result<Tensor> {
        let values = logits.to_vec1::<f32>()?;
        let token = self.pick(&values, context);
        let mut only = vec![f32::NEG_INFINITY; values.len()];
        if let Some(chosen) = only.get_mut(token) {
            *chosen = 0.0;
        }
        Tensor::from_vec(only, values.len(), logits.device())
    }
}
