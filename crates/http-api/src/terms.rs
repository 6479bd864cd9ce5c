//! Who asks, and under which terms, from the request's head.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use queen_api::{CONTINUE_HEADER, ErrorCode, ErrorDetail, PRIORITY_HEADER, REGION_HEADER};
use router::{Priority, Terms};

/// Longest name of a region.
const REGION_MAX: usize = 64;

static PRIORITY: HeaderName = HeaderName::from_static(PRIORITY_HEADER);
static REGION: HeaderName = HeaderName::from_static(REGION_HEADER);
static CONTINUE: HeaderName = HeaderName::from_static(CONTINUE_HEADER);

/// Another number for each key, of which nobody can tell the key.
static CALLERS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Reads what a request's head says of them.
///
/// # Errors
/// A class that is none, or a region that cannot be one.
pub(crate) fn terms(headers: &HeaderMap) -> Result<Terms, ErrorDetail> {
    let priority = match headers.get(&PRIORITY).map(HeaderValue::as_bytes) {
        None | Some(b"normal") => Priority::Normal,
        Some(b"high") => Priority::High,
        Some(b"low") => Priority::Low,
        Some(other) => {
            let other = other.escape_ascii();
            return Err(invalid(format!("{PRIORITY_HEADER}: {other} is not high, normal or low")));
        }
    };
    let region = headers.get(&REGION).map(|value| {
        let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= REGION_MAX);
        text.map(Into::into)
            .ok_or_else(|| invalid(format!("{REGION_HEADER}: a name of 1 to {REGION_MAX} letters")))
    });
    // Where no key is required, the one that a client sends all the same still tells it from others.
    let caller = headers.get(header::AUTHORIZATION).map_or(0, |key| CALLERS.hash_one(key.as_bytes()));
    Ok(Terms { caller, priority, region: region.transpose()? })
}

/// Whether another worker may go on with an answer that breaks off, if the client says so either way.
///
/// # Errors
/// Neither yes nor no.
pub(crate) fn may_continue(headers: &HeaderMap) -> Result<Option<bool>, ErrorDetail> {
    match headers.get(&CONTINUE).map(HeaderValue::as_bytes) {
        None => Ok(None),
        Some(b"1") => Ok(Some(true)),
        Some(b"0") => Ok(Some(false)),
        Some(other) => {
            let other = other.escape_ascii();
            Err(invalid(format!("{CONTINUE_HEADER}: {other} is neither 1 nor 0")))
        }
    }
}

fn invalid(message: String) -> ErrorDetail {
    ErrorDetail::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Result<Terms, ErrorDetail> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        terms(&headers)
    }

    #[test]
    fn callers_are_told_apart_by_their_keys_and_classes_by_their_names() {
        let [none, one, again, other] = [
            &[][..],
            &[("authorization", "Bearer a")],
            &[("authorization", "Bearer a")],
            &[("authorization", "Bearer b")],
        ]
        .map(|pairs| of(pairs).unwrap().caller);
        assert!(one == again && one != other && none == 0 && one != 0);
        assert_eq!(of(&[]).unwrap().priority, Priority::Normal);
        let asked = of(&[("x-rbee-priority", "low"), ("x-rbee-region", "cellar")]).unwrap();
        assert_eq!((asked.priority, asked.region.as_deref()), (Priority::Low, Some("cellar")));
        assert!(of(&[("x-rbee-priority", "urgent")]).unwrap_err().message.contains("urgent"));
        assert!(of(&[("x-rbee-region", "")]).is_err());
    }

    #[test]
    fn whether_another_worker_may_go_on_is_said_with_one_or_zero() {
        let said = |value: &'static str| {
            may_continue(&HeaderMap::from_iter([(CONTINUE.clone(), HeaderValue::from_static(value))]))
        };
        assert_eq!(may_continue(&HeaderMap::new()).unwrap(), None);
        assert_eq!((said("1").unwrap(), said("0").unwrap()), (Some(true), Some(false)));
        assert!(said("yes").unwrap_err().message.contains("yes"));
    }
}
