//! The adapter: mistral.rs behind the worker's port.
//!
//! A generation goes in as tokens, chosen and seen one by one by a [`Picker`]; the library's own messages are only
//! listened to for failures. Dropping the events closes the channel that the library sends those messages to, upon which it
//! cancels the sequence at its next token. A long prompt that is being read cannot be interrupted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use either::Either;
use futures_util::StreamExt;
use indexmap::IndexMap;
use mistralrs_core::{
    Constraint, MessageContent, MistralRs, NormalRequest, Pipeline, Request, RequestMessage, Response,
    SamplingParams,
};
use tokio::sync::mpsc::{Receiver, channel};
use worker_http::{Engine, EngineError, Event, Events, Message, Order, Prompt, Sampling, Started};

use crate::picker::Picker;
use crate::sampling::Sampler;
use crate::vocabulary::Vocabulary;

/// A loaded model, as the library holds it.
pub(crate) type Model = Arc<tokio::sync::Mutex<dyn Pipeline + Send + Sync>>;

/// mistral.rs with one model.
pub(crate) struct MistralEngine {
    pub(crate) mistral: Arc<MistralRs>,
    pub(crate) model: Model,
    pub(crate) vocabulary: Arc<Vocabulary>,
    pub(crate) ends: Arc<[u32]>,
    pub(crate) context: u32,
    pub(crate) next_id: AtomicUsize,
}

#[async_trait]
impl Engine for MistralEngine {
    fn context(&self) -> u32 {
        self.context
    }

    async fn start(&self, order: Order) -> Result<Started, EngineError> {
        let text = match order.prompt {
            Prompt::Text(text) => text,
            Prompt::Chat { messages, continue_last } => self.render(messages, continue_last).await?,
        };
        let tokens = self.tokenize(text).await?;
        let prompt_tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let room = self.context.saturating_sub(prompt_tokens);
        if room == 0 {
            return Err(EngineError::PromptTooLong { prompt: prompt_tokens, context: self.context });
        }
        let limit = order.max_tokens.unwrap_or(room).min(room);
        // Room for every token, the end and one failure: a client that reads slowly must never hold up the engine, which
        // serves the others in the same loop. Memory is only taken by what was really sent.
        let capacity = limit as usize + 2;
        let (events, made) = channel(capacity);
        let (responder, responses) = channel(capacity);
        let sampler = Sampler::new(order.sampling);
        let picker = Picker::new(
            sampler,
            events,
            Arc::clone(&self.vocabulary),
            Arc::clone(&self.ends),
            limit,
            order.slot,
        );
        let request = NormalRequest {
            is_streaming: true,
            logits_processors: Some(vec![Arc::new(picker)]),
            ..NormalRequest::new_simple(
                RequestMessage::CompletionTokens(tokens),
                library_sampling(order.sampling, limit),
                responder,
                self.next_id.fetch_add(1, Ordering::Relaxed),
                None,
                None,
            )
        };
        debug_assert!(matches!(request.constraint, Constraint::None));
        let requests =
            self.mistral.get_sender(None).map_err(|error| EngineError::Failed(error.to_string()))?;
        let sent = requests.send(Request::Normal(Box::new(request))).await;
        sent.map_err(|_| EngineError::Failed("its thread has ended".to_owned()))?;
        Ok(Started { prompt_tokens, events: events_of(made, responses) })
    }
}

impl MistralEngine {
    /// Puts a conversation through the model's template.
    async fn render(&self, mut messages: Vec<Message>, continue_last: bool) -> Result<String, EngineError> {
        // The beginning of an answer goes behind the template as it is: there the template ends with the assistant's turn
        // opened, which is where the model would have begun to write it.
        let begun = if continue_last { messages.pop() } else { None };
        let messages = messages
            .into_iter()
            .map(|message| {
                let fields = [("role", message.role), ("content", message.content)];
                fields.map(|(name, text)| (name.to_owned(), MessageContent::from(Either::Left(text)))).into()
            })
            .collect::<Vec<IndexMap<String, MessageContent>>>();
        let model = self.model.lock().await;
        if !model.get_chat_template().is_some_and(|template| template.has_chat_template()) {
            return Err(EngineError::BadPrompt(
                "this model has no chat template, use /v1/completions".to_owned(),
            ));
        }
        let rendered = model.get_processor().process(&*model, messages, true, false, None, None, Vec::new());
        // Templates refuse what they were not made for, such as a system message, with an error of their own.
        let (_, mut text) = rendered
            .map_err(|error| EngineError::BadPrompt(format!("the chat template refuses: {error}")))?;
        if let Some(begun) = begun {
            text.push_str(&begun.content);
        }
        Ok(text)
    }

    async fn tokenize(&self, text: String) -> Result<Vec<u32>, EngineError> {
        let Some(tokenizer) = self.model.lock().await.tokenizer() else {
            return Err(EngineError::Failed("it has no tokenizer".to_owned()));
        };
        // A long prompt takes its time, which other connections must not wait for.
        let encoding = tokio::task::spawn_blocking(move || {
            tokenizer
                .encode_fast(text, false)
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|e| e.to_string())
        });
        let tokens = match encoding.await {
            Ok(Ok(tokens)) => self.vocabulary.with_begin(tokens),
            Ok(Err(error)) => {
                return Err(EngineError::BadPrompt(format!("the prompt cannot be tokenized: {error}")));
            }
            Err(_) => return Err(EngineError::Failed("its tokenizer panicked".to_owned())),
        };
        if tokens.is_empty() {
            Err(EngineError::BadPrompt("the prompt is empty".to_owned()))
        } else {
            Ok(tokens)
        }
    }
}

/// What is left for the library to do: take the one token that the picker leaves, and count.
fn library_sampling(sampling: Sampling, limit: u32) -> SamplingParams {
    SamplingParams {
        // The library takes nothing for a temperature of one, but zero for greedy.
        temperature: Some(0.0),
        max_len: Some(limit as usize),
        frequency_penalty: Some(sampling.frequency_penalty).filter(|&penalty| penalty != 0.0),
        presence_penalty: Some(sampling.presence_penalty).filter(|&penalty| penalty != 0.0),
        ..SamplingParams::deterministic()
    }
}

/// The picker's events, and the library's failures.
fn events_of(made: Receiver<Result<Event, EngineError>>, responses: Receiver<Response>) -> Events {
    struct Listening {
        made: Receiver<Result<Event, EngineError>>,
        responses: Receiver<Response>,
        over: bool,
    }
    let listening = Listening { made, responses, over: false };
    let events = futures_util::stream::unfold(listening, |mut this| async move {
        while !this.over {
            tokio::select! {
                // What was made is told before why no more is made.
                biased;
                event = this.made.recv() => {
                    let event = event.unwrap_or_else(|| Err(last_words(&mut this.responses)));
                    this.over = !matches!(event, Ok(Event::Token(_)));
                    return Some((event, this));
                }
                Some(response) = this.responses.recv() => {
                    if let Some(error) = failure(response) {
                        this.over = true;
                        return Some((Err(error), this));
                    }
                }
            }
        }
        None
    });
    events.boxed()
}

/// Why the library dropped a sequence that was not finished: it says so before it does.
fn last_words(responses: &mut Receiver<Response>) -> EngineError {
    let said = std::iter::from_fn(|| responses.try_recv().ok()).find_map(failure);
    said.unwrap_or_else(|| EngineError::Failed("it gave the sequence up without a word".to_owned()))
}

/// The failure that a message of the library reports, if it does.
fn failure(response: Response) -> Option<EngineError> {
    match response {
        Response::InternalError(error) => Some(EngineError::Failed(error.to_string())),
        Response::ValidationError(error) => Some(EngineError::BadPrompt(error.to_string())),
        Response::ModelError(error, _) | Response::CompletionModelError(error, _) => {
            Some(EngineError::Failed(error))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use worker_http::Finish;

    use super::*;

    fn token(text: &str) -> Result<Event, EngineError> {
        Ok(Event::Token(text.as_bytes().to_vec()))
    }

    #[tokio::test]
    async fn what_was_made_is_told_before_why_no_more_is_made() {
        let (events, made) = channel(4);
        let (responder, responses) = channel(4);
        events.send(token(" a")).await.unwrap();
        assert!(responder.send(Response::InternalError("out of memory".into())).await.is_ok());
        events.send(token(" b")).await.unwrap();
        drop((events, responder));
        let told: Vec<_> = events_of(made, responses).collect().await;
        let why = Err(EngineError::Failed("out of memory".to_owned()));
        assert_eq!(told, [token(" a"), token(" b"), why]);
    }

    #[tokio::test]
    async fn a_failure_ends_the_events_while_the_sequence_still_exists() {
        let (_events, made) = channel(4);
        let (responder, responses) = channel(4);
        assert!(responder.send(Response::ValidationError("too odd".into())).await.is_ok());
        let told: Vec<_> = events_of(made, responses).collect().await;
        assert_eq!(told, [Err(EngineError::BadPrompt("too odd".to_owned()))]);
    }

    #[tokio::test]
    async fn nothing_comes_after_the_end_and_a_silent_end_is_a_failure() {
        let (events, made) = channel(4);
        let (responder, responses) = channel(4);
        events.send(Ok(Event::Finished(Finish::Length))).await.unwrap();
        events.send(token(" late")).await.unwrap();
        assert_eq!(
            events_of(made, responses).collect::<Vec<_>>().await,
            [Ok(Event::Finished(Finish::Length))]
        );
        drop(responder);

        let (_, made) = channel(4);
        let (_responder, responses) = channel(4);
        let told: Vec<_> = events_of(made, responses).collect().await;
        assert!(matches!(&told[..], [Err(EngineError::Failed(_))]), "{told:?}");
    }
}
