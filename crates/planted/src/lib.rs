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
}

#[cfg(not(planted))]
mod chosen {
    /// Whether this run has the bug of this name: never, in this build.
    #[must_use]
    pub const fn bug(_name: &str) -> bool {
        false
    }
}

pub use chosen::bug;

#[cfg(all(test, not(planted)))]
mod tests {
    #[test]
    fn everyday_builds_have_no_bug() {
        const { assert!(!super::bug("leaked-slot")) }
    }
}
