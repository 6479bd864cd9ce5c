//! How many requests may be sent a second time.
//!
//! Where workers fail because there is too much to do, sending everything twice makes it twice too much. So second
//! attempts are bounded to a part of the requests of the last seconds, with a floor that lets a quiet fleet lose a worker
//! unseen. What is sent again because its worker is known to be dead does not count: that adds nothing to what the living
//! have to do.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Seconds that are looked back on.
const WINDOW: u64 = 10;

/// One second attempt for so many requests.
const ONE_IN: u64 = 5;

/// Second attempts in the window that are always let through.
const FLOOR: u64 = 64;

/// Second attempts of all requests.
#[derive(Debug)]
pub(crate) struct Budget {
    begun: Instant,
    seconds: Mutex<[Second; WINDOW as usize]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Second {
    /// Which, counted from the beginning.
    number: u64,
    requests: u64,
    again: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { begun: Instant::now(), seconds: Mutex::default() }
    }
}

impl Budget {
    /// A request came.
    pub(crate) fn request(&self) {
        self.on_second(|second, _| second.requests += 1);
    }

    /// Whether a request may be sent again. If so it is counted.
    pub(crate) fn again(&self) -> bool {
        self.on_second(|second, (requests, again)| {
            let most = FLOOR.max(requests / ONE_IN);
            let may = again < most;
            second.again += u64::from(may);
            may
        })
    }

    /// Does something with the present second and the sums of the window.
    fn on_second<T>(&self, act: impl FnOnce(&mut Second, (u64, u64)) -> T) -> T {
        let number = self.begun.elapsed().as_secs();
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(number % WINDOW).unwrap_or_default();
        if seconds[at].number != number {
            seconds[at] = Second { number, ..Second::default() };
        }
        let recent = seconds.iter().filter(|second| second.number + WINDOW > number);
        let sums = recent
            .fold((0, 0), |(requests, again), second| (requests + second.requests, again + second.again));
        act(&mut seconds[at], sums)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn granted(budget: &Budget) -> u64 {
        (0..10_000).filter(|_| budget.again()).count() as u64
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_the_requests_of_ten_seconds_but_never_less_than_the_floor() {
        let budget = Budget::default();
        assert_eq!(granted(&budget), 64);
        assert_eq!(granted(&budget), 0);
        tokio::time::advance(Duration::from_secs(5)).await;
        (0..1000).for_each(|_| budget.request());
        assert_eq!(granted(&budget), 200 - 64);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(granted(&budget), 64, "what was granted eleven seconds ago is forgotten");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(granted(&budget), 64);
    }
}
