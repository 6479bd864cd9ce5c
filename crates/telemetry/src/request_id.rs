//! Ids of requests.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use fleet::RequestId;

/// Digits in the order of their ASCII codes, so that text sorts as numbers do (Crockford's base 32, lower case).
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters that tell the time: 45 bits of milliseconds, enough until the year 3084.
const TIME_DIGITS: usize = 9;

/// Characters that tell requests of one millisecond apart: 60 random bits.
const RANDOM_DIGITS: usize = 12;

/// Makes of each number another one, of which nobody can tell the next who does not know its two keys.
static MIXED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

static COUNT: AtomicU64 = AtomicU64::new(0);

/// A new id: 21 characters, the later the greater as far as the clock of the machine goes, and not to be guessed.
#[must_use]
pub fn new_request_id() -> RequestId {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let random = MIXED.hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
    let mut text = [0; TIME_DIGITS + RANDOM_DIGITS];
    let (time, rest) = text.split_at_mut(TIME_DIGITS);
    write(millis, time);
    write(random, rest);
    let text = str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
    text.unwrap_or_else(|| unreachable!("21 letters and digits are an id"))
}

/// As many of a number's last digits as there is room for.
fn write(number: u64, digits: &mut [u8]) {
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[usize::try_from(rest & 31).unwrap_or_default()];
        rest >>= 5;
    }
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
        let stamp = |millis| {
            let mut text = [0; TIME_DIGITS];
            write(millis, &mut text);
            String::from_utf8(text.to_vec()).expect("ASCII")
        };
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
