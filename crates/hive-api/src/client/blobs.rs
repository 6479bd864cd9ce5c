//! Files of models: letting another hive read one, and carrying one between two hives that cannot reach each other.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use fleet::Digest;
use reqwest::{Method, StatusCode, header};

use super::{ClientError, ClientErrorKind, HiveClient, Result, call};
use crate::{BlobGrant, BlobWritten};

/// For one part of a file, from start to the last byte. A part has at most [`crate::BODY_MAX`] bytes, so this is a line
/// of 1.1 Mbit/s.
const PART: Duration = Duration::from_secs(60);

impl HiveClient {
    /// Lets another hive read one file.
    ///
    /// # Errors
    /// As every call.
    pub async fn grant_blob(&self, digest: &Digest) -> Result<BlobGrant> {
        self.call(self.request(Method::POST, &format!("/v1/models/blob/{digest}/grant")), "grant blob").await
    }

    /// Reads a part of a file: exactly these bytes, at most [`crate::BODY_MAX`] of them.
    ///
    /// # Errors
    /// As every call; also when the hive sends another number of bytes.
    pub async fn read_blob(&self, digest: &Digest, range: Range<u64>) -> Result<Bytes> {
        let action = "read blob";
        let who = self.endpoint.hive_id.as_str();
        let last = range.end.saturating_sub(1);
        let request = self
            .request(Method::GET, &format!("/v1/models/blob/{digest}"))
            .header(header::RANGE, format!("bytes={}-{last}", range.start))
            .timeout(PART);
        let response = call::head(request, who, action).await?;
        let status = response.status();
        let bytes = call::body(response, who, action).await?;
        let expected = range.end.saturating_sub(range.start);
        if status != StatusCode::PARTIAL_CONTENT || bytes.len() as u64 != expected {
            let reason = format!("it answered {status} with {} bytes to a range of {expected}", bytes.len());
            return Err(ClientError::new(who, action, ClientErrorKind::NotAHive { reason }));
        }
        Ok(bytes.into())
    }

    /// Writes a part of a file; answers how many bytes the hive has of it now.
    ///
    /// # Errors
    /// As every call.
    pub async fn write_blob(&self, digest: &Digest, offset: u64, part: Bytes) -> Result<u64> {
        let path = format!("/v1/models/blob/{digest}?offset={offset}");
        let request = self.request(Method::PUT, &path).body(part).timeout(PART);
        let written: BlobWritten = call::json(request, self.endpoint.hive_id.as_str(), "write blob").await?;
        Ok(written.bytes)
    }
}
