//! What of this process's environment a child may see.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

/// Names that a child may inherit: what a program needs to find files, speak the user's language and reach accelerators.
const NAMES: &[&str] = &[
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "PATH",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
];

/// The same by prefix. Accelerator libraries read their devices, caches and locations from these.
const PREFIXES: &[&str] = &[
    "CUDA_", "GGML_", "GPU_", "HIP_", "HSA_", "LC_", "MTL_", "NCCL_", "NVIDIA_", "OMP_", "ROCM_", "ROCR_",
    "VK_",
];

/// The environment of a child: an allow-list of ours, and what was added. Everything else, above all secrets that
/// somebody exported into this process's shell, stays out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The allowed part of this process's environment.
    #[must_use]
    pub fn inherited() -> Self {
        Self::from_vars(std::env::vars_os())
    }

    fn from_vars(vars: impl Iterator<Item = (OsString, OsString)>) -> Self {
        Self(vars.filter(|(name, _)| is_allowed(name)).collect())
    }

    /// Also inherits every variable whose name starts with `prefix`.
    #[must_use]
    pub fn inherit_prefix(mut self, prefix: &str) -> Self {
        let ours =
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        self.0.extend(ours);
        self
    }

    /// Adds or replaces one variable.
    #[must_use]
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

fn is_allowed(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_allowed_or_added_reaches_a_child() {
        let vars =
            ["PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "LD_PRELOAD"];
        let environment =
            Environment::from_vars(vars.into_iter().map(|name| (name.into(), "x".into()))).with("ADDED", "y");
        let names: Vec<_> = environment.iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["ADDED", "CUDA_VISIBLE_DEVICES", "LC_ALL", "PATH"]);
    }
}
