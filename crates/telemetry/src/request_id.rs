//! Ids of requests.

use std::time::{SystemTime, UNIX_EPOCH};

use fleet::RequestId;

/// Digits in the order of their ASCII codes, so that text sorts as numbers do (Crockford's base 32, lower case).
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters that tell the time: 45 bits of milliseconds, enough until the year 3084.
const TIME_DIGITS: u32 = 9;

/// Characters that tell requests of one millisecond apart: 60 random bits.
const RANDOM_DIGITS: u32 = 12;

/// A new id: 21 characters, the later the greater as far as the clock of the machine goes, and not to be guessed.
///
/// Where the system has no random numbers the clock's nanoseconds stand in for them: an id names a request and protects
/// nothing, so it is better to have one.
#[must_use]
pub fn new_request_id() -> RequestId {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let random = getrandom::u64().unwrap_or_else(|_| u64::from(now.subsec_nanos()));
    let text = digits(millis, TIME_DIGITS).chain(digits(random, RANDOM_DIGITS)).collect::<String>();
    text.parse().unwrap_or_else(|_| unreachable!("21 letters and digits are an id"))
}

fn digits(number: u64, count: u32) -> impl Iterator<Item = char> {
    (0..count).rev().map(move |place| {
        let digit = (number >> (5 * place)) & 31;
        char::from(DIGITS[usize::try_from(digit).unwrap_or_default()])
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_differ_and_have_one_length() {
        let ids: BTreeSet<RequestId> = (0..10_000).map(|_| new_request_id()).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.as_str().len() == 21));
    }

    #[test]
    fn later_ids_are_greater() {
        let stamp = |millis| digits(millis, TIME_DIGITS).collect::<String>();
        let times = [0, 1, 31, 32, 1_760_000_000_000, 1_760_000_000_001, 1_760_000_000_032, (1 << 45) - 1];
        let texts: Vec<String> = times.into_iter().map(stamp).collect();
        assert!(texts.is_sorted_by(|a, b| a < b), "{texts:?}");
        let millis = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            stamp(u64::try_from(now.as_millis()).expect("before 3084"))
        };
        let before = millis();
        let id = new_request_id();
        let after = millis();
        assert!((before.as_str()..=after.as_str()).contains(&&id.as_str()[..9]), "{before} {id} {after}");
    }
}
