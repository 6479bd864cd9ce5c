//! Steps of a longer task: each is announced, timed, and named again at the end.

use std::time::{Duration, Instant};

use crate::stop::Stopped;

/// The steps of one task, as far as they went.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Done>,
}

#[derive(Debug)]
struct Done {
    name: String,
    took: Duration,
    failure: Option<String>,
}

impl Steps {
    /// Does one step. A failure is kept and the next steps go on; being asked to stop is passed on.
    pub(crate) async fn step<T>(
        &mut self,
        name: &str,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<Option<T>> {
        println!("── {name}");
        let began = Instant::now();
        let (value, failure) = match work.await {
            Ok(value) => (Some(value), None),
            Err(error) if error.is::<Stopped>() => return Err(error),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        let took = began.elapsed();
        match &failure {
            None => println!("   {name}: ok, {:.1} s", took.as_secs_f64()),
            Some(failure) => println!("   {name}: FAILED after {:.1} s: {failure}", took.as_secs_f64()),
        }
        self.done.push(Done { name: name.to_owned(), took, failure });
        Ok(value)
    }

    /// The names of what failed.
    pub(crate) fn failed(&self) -> Vec<&str> {
        self.done.iter().filter(|done| done.failure.is_some()).map(|done| done.name.as_str()).collect()
    }

    /// Every step with its seconds.
    pub(crate) fn print(&self) {
        println!();
        for done in &self.done {
            let verdict = if done.failure.is_none() { "ok" } else { "FAILED" };
            println!("  {:<40} {:>7.1} s  {verdict}", done.name, done.took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_is_kept_and_a_stop_is_passed_on() {
        let mut steps = Steps::default();
        assert_eq!(steps.step("one", async { Ok(1) }).await.unwrap(), Some(1));
        assert_eq!(steps.step("two", async { anyhow::bail!("no") }).await.unwrap(), None::<()>);
        assert_eq!(steps.failed(), ["two"]);
        let stopped = steps.step("three", async { Err::<(), _>(Stopped.into()) }).await;
        assert!(stopped.unwrap_err().is::<Stopped>());
    }
}
