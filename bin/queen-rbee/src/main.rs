//! queen-rbee.
fn main() {}
