//! The words that stand for enums in text columns. They are part of the stored format: `CHECK` constraints repeat them.

use fleet::{Desired, DesiredBy, HiveMode, HiveSource, HiveStatus, LaunchStep, Scope, StartPolicy};

/// An enum that a text column holds.
pub(crate) trait Word: Sized + Copy {
    /// The stored word.
    fn word(self) -> &'static str;
    /// What a stored word means.
    fn of_word(text: &str) -> Option<Self>;
}

macro_rules! words {
    ($type:ty: $($variant:ident = $word:literal),+) => {
        impl Word for $type {
            fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            fn of_word(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words!(HiveMode: Local = "local", Network = "network");
words!(HiveStatus: Online = "online", Offline = "offline", Error = "error");
words!(HiveSource: Config = "config", Api = "api");
words!(StartPolicy: Always = "always", OnDemand = "on_demand");
words!(DesiredBy: Person = "person", Placement = "placement");
words!(LaunchStep: Intended = "intended", Spawned = "spawned", Healthy = "healthy", Ended = "ended");
words!(Scope: Infer = "infer", Admin = "admin");

/// What should be true of a hive, in two columns: the word, and whether it is paused.
pub(crate) const fn desired(desired: Desired) -> (&'static str, bool) {
    match desired {
        Desired::Running => ("running", false),
        Desired::Stopped => ("stopped", false),
        Desired::Drained => ("drained", false),
        Desired::Paused => ("drained", true),
    }
}

/// What the two columns mean.
pub(crate) fn of_desired(word: &str, paused: bool) -> Option<Desired> {
    match word {
        "running" => Some(Desired::Running),
        "stopped" => Some(Desired::Stopped),
        "drained" if paused => Some(Desired::Paused),
        "drained" => Some(Desired::Drained),
        _ => None,
    }
}
