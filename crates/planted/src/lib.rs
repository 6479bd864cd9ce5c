//! Bugs planted on purpose: a test that catches none of them proves nothing.
//!
//! `cargo xtask planted` builds the programs once with `--cfg planted`, in a target folder of its own, and runs them once
//! for each bug, whose name it gives in `RBEE_PLANTED`; some scenario of `cargo xtask test-cluster` has to fail every time.
//! A bug is one line where it bites and one line in the table of that command:
//!
//! ```text
//! if planted::bug("leaked-slot") {
//!     return;
//! }
//! ```
//!
//! The same build dies on order: a step of something that must survive the death of its program in every moment is named by
//! [`step`], and a run with that name in `RBEE_DIES_AT` ends there, without any cleaning up. With the name in `RBEE_HANGS_AT`
//! the thread that comes there goes no further, so that whoever watches can see what others do meanwhile before the run is
//! ended. The scenarios `steps/*` see to it that the next run goes on as if nothing had happened.
//!
//! Invariant: without `--cfg planted` every question is answered `false` when the code is compiled, whatever the
//! environment says.

#[cfg(planted)]
mod chosen {
    use std::sync::OnceLock;

    /// Whether this run has the bug of this name.
    #[must_use]
    pub fn bug(name: &str) -> bool {
        static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
        CHOSEN.get_or_init(|| std::env::var("RBEE_PLANTED").ok()).as_deref() == Some(name)
    }

    /// Dies or hangs here if this run was told to.
    pub fn step(name: &str) {
        let is_meant = |variable: &str| std::env::var_os(variable).is_some_and(|step| step == name);
        if is_meant("RBEE_DIES_AT") {
            std::process::abort();
        }
        while is_meant("RBEE_HANGS_AT") {
            std::thread::park();
        }
    }
}

#[cfg(not(planted))]
mod chosen {
    /// Whether this run has the bug of this name: never, in this build.
    #[must_use]
    pub const fn bug(_name: &str) -> bool {
        false
    }

    /// Goes on: no run of this build dies or hangs on order.
    pub const fn step(_name: &str) {}
}

pub use chosen::{bug, step};

#[cfg(all(test, not(planted)))]
mod tests {
    #[test]
    fn everyday_builds_have_no_bug() {
        const { assert!(!super::bug("leaked-slot")) }
        const { super::step("launch-intended") }
    }
}
