//! Asking a server for a file, or for the rest of it.

use std::time::Duration;

use fleet::EngineUrl;
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_RANGE, LOCATION, RANGE},
};
use tokio::time::timeout;

use crate::EngineError;

/// Most redirects of one request.
const REDIRECTS: usize = 5;

/// Why a transfer did not come to its end.
pub(crate) enum Cut {
    /// It may go on.
    Broke(String),
    Refused(u16),
    Redirect(String),
    Told(EngineError),
}

/// An answer, and where its bytes belong.
pub(crate) struct Answer {
    response: Response,
    /// The first byte of what comes.
    pub(crate) from: u64,
    /// Bytes of the whole file.
    pub(crate) total: Option<u64>,
    stall: Duration,
}

/// Asks for the file from this byte on. A server that knows no ranges gives all of it.
pub(crate) async fn open(
    http: &reqwest::Client,
    url: &EngineUrl,
    from: u64,
    stall: Duration,
) -> Result<Answer, Cut> {
    let response = follow(http, url, from, stall).await?;
    let status = response.status();
    let length = response.content_length();
    match status {
        StatusCode::OK => Ok(Answer { from: 0, total: length, response, stall }),
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(from) => {
            Ok(Answer { from, total: length.map(|length| length + from), response, stall })
        }
        // What is here is not the beginning of what is there, or is all of it: the digest tells.
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT if from > 0 => {
            let response = follow(http, url, 0, stall).await?;
            match response.status() {
                StatusCode::OK => Ok(Answer { from: 0, total: response.content_length(), response, stall }),
                status => Err(refused(status)),
            }
        }
        status => Err(refused(status)),
    }
}

/// A server that is busy or broken may do better soon.
fn refused(status: StatusCode) -> Cut {
    if status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429) {
        return Cut::Broke(format!("the server answered {}", status.as_u16()));
    }
    Cut::Refused(status.as_u16())
}

fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

async fn follow(
    http: &reqwest::Client,
    url: &EngineUrl,
    from: u64,
    stall: Duration,
) -> Result<Response, Cut> {
    let parsed = url.as_str().parse::<Url>();
    let mut at = parsed.map_err(|error| Cut::Redirect(format!("it is no URL ({error})")))?;
    for _ in 0..=REDIRECTS {
        let mut request = http.get(at.clone());
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let answer = timeout(stall, request.send()).await;
        let answer = answer.map_err(|_| Cut::Broke(format!("no answer within {} s", stall.as_secs_f32())))?;
        let response = answer.map_err(|error| Cut::Broke(causes::with_causes(&error.without_url())))?;
        if !response.status().is_redirection() {
            return Ok(response);
        }
        let target = response.headers().get(LOCATION).and_then(|target| target.to_str().ok());
        let target = target.and_then(|target| at.join(target).ok());
        let target = target.ok_or_else(|| Cut::Redirect("it redirects to no URL".to_owned()))?;
        if target.scheme() != "https" && at.scheme() == "https" {
            return Err(Cut::Redirect("it redirects from https to something less".to_owned()));
        }
        // The rules for what was configured hold for where it leads.
        if let Err(error) = target.as_str().parse::<EngineUrl>() {
            return Err(Cut::Redirect(format!("it redirects to what {error}")));
        }
        at = target;
    }
    Err(Cut::Redirect(format!("it redirects more than {REDIRECTS} times")))
}

impl Answer {
    /// The next piece; none at the end.
    pub(crate) async fn piece(&mut self) -> Result<Option<bytes::Bytes>, Cut> {
        let piece = timeout(self.stall, self.response.chunk()).await;
        let silent = || Cut::Broke(format!("nothing came for {} s", self.stall.as_secs_f32()));
        piece.map_err(|_| silent())?.map_err(|error| Cut::Broke(causes::with_causes(&error.without_url())))
    }
}
