//! The two streams of events.

use fleet::{DownloadId, DownloadRecord};
use futures_util::{Stream, StreamExt, future::ready, stream::BoxStream};
use reqwest::{Method, header};

use super::{ClientError, ClientErrorKind, HiveClient, Result, call};
use crate::WatchEvent;

impl HiveClient {
    /// A snapshot, then every change. The stream ends with its first error; silence is for the reader to judge.
    ///
    /// # Errors
    /// As every call, for the head of the answer.
    pub async fn watch(&self) -> Result<BoxStream<'static, Result<WatchEvent>>> {
        let action = "watch";
        let events = self.events("/v1/watch", action).await?;
        let who = self.endpoint.hive_id.to_string();
        let read = events.filter_map(move |event| {
            let parsed = event.and_then(|event| {
                WatchEvent::parse(&event.name, &event.data).map_err(|error| unreadable(&error, &who, action))
            });
            ready(parsed.transpose())
        });
        Ok(until_error(read).boxed())
    }

    /// Follows a transfer until its final record. The stream ends with its first error.
    ///
    /// # Errors
    /// As every call, for the head of the answer.
    pub async fn download_progress(
        &self,
        id: &DownloadId,
    ) -> Result<BoxStream<'static, Result<DownloadRecord>>> {
        let action = "follow download";
        let events = self.events(&format!("/v1/models/download/progress?id={id}"), action).await?;
        let who = self.endpoint.hive_id.to_string();
        let read = events.map(move |event| {
            event.and_then(|event| {
                serde_json::from_slice(&event.data).map_err(|error| unreadable(&error, &who, action))
            })
        });
        Ok(until_error(read).boxed())
    }

    async fn events(
        &self,
        path: &str,
        action: &'static str,
    ) -> Result<impl Stream<Item = Result<sse::Event>> + Send + use<>> {
        let who = self.endpoint.hive_id.to_string();
        let head = call::head(self.request(Method::GET, path), &who, action);
        // The stream itself has no end, so only its head has a deadline.
        let response = tokio::time::timeout(self.timeouts.call, head)
            .await
            .map_err(|_| ClientError::new(who.clone(), action, ClientErrorKind::Timeout))??;
        let content_type = response.headers().get(header::CONTENT_TYPE);
        if !content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream")) {
            let reason = "its answer is no event stream".to_owned();
            return Err(ClientError::new(who, action, ClientErrorKind::NotAHive { reason }));
        }
        let events = sse::events(response.bytes_stream().boxed(), crate::EVENT_MAX);
        Ok(events.map(move |event| event.map_err(|error| call::stream_error(error, &who, action))))
    }
}

fn unreadable(error: &dyn std::error::Error, who: &str, action: &'static str) -> ClientError {
    ClientError::new(who, action, ClientErrorKind::NotAHive { reason: causes::with_causes(error) })
}

/// The stream up to and with its first error.
fn until_error<T: Send>(
    events: impl Stream<Item = Result<T>> + Send,
) -> impl Stream<Item = Result<T>> + Send {
    events.scan(false, |over, event| {
        let before = std::mem::replace(over, event.is_err());
        ready((!before).then_some(event))
    })
}
