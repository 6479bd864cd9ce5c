//! What a scenario is.

use std::pin::Pin;

use super::{fleet::Cluster, other_machine::Kind};

type Done<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;

/// One thing that is done to a fleet, and what should come of it.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What it shows, as a claim.
    pub(crate) claim: &'static str,
    pub(crate) hives: Hives,
    /// Lines of the queen's configuration.
    pub(crate) config: &'static [&'static str],
    /// What the machine has to have.
    pub(crate) needs: &'static [Need],
    /// How large the queen's disk is, if it is to be a small one. That takes [`Need::Namespaces`].
    pub(crate) disk: Option<&'static str>,
    pub(crate) run: for<'a> fn(&'a mut Cluster) -> Done<'a>,
}

/// Which hives a scenario needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hives {
    /// As many fake ones as were asked for.
    Any,
    /// So many fake ones.
    Fake(usize),
    /// So many fake ones, each in a network of its own. That takes [`Need::Namespaces`].
    Apart(usize),
    /// So many fake ones that the queen starts, and none that is attached.
    Launched(usize),
    /// One hive that the queen brings to another machine: this one, by way of an SSH server of its own. That takes
    /// [`Need::Sshd`], and a cable in between [`Need::Namespaces`].
    Network(Kind),
    /// Real ones, as many as were asked for.
    Real,
}

/// What not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Network and mounts of the harness's own.
    Namespaces,
    /// A real SSH server.
    Sshd,
    /// `libfaketime`, to make wall clocks jump.
    Faketime,
    /// `strace`, to make system calls slow or fail.
    Strace,
    /// The build that dies on order. Only `cargo xtask planted` has it, so elsewhere such scenarios are not chosen at all.
    Planted,
}

impl Need {
    /// What is said where it is missing.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces of its own",
            Self::Sshd => "sshd",
            Self::Faketime => "libfaketime",
            Self::Strace => "strace",
            Self::Planted => "planted bugs",
        }
    }
}

/// Makes a [`Scenario`] of an `async fn(&mut Cluster) -> Result<()>`. Its name is the function's.
macro_rules! scenario {
    ($module:ident :: $name:ident, $claim:literal $(, $field:ident : $value:expr)* $(,)?) => {
        $crate::cluster::scenario::Scenario {
            $($field: $value,)*
            ..$crate::cluster::scenario::Scenario {
                name: concat!(stringify!($module), "/", stringify!($name)),
                claim: $claim,
                hives: $crate::cluster::scenario::Hives::Any,
                config: &[],
                needs: &[],
                disk: None,
                run: |cluster| Box::pin($module::$name(cluster)),
            }
        }
    };
}

pub(crate) use scenario;
