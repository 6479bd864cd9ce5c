//! Where the owner's Hugging Face tools keep what they fetched.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The cache that these variables lead to, by the tools' own rules
/// (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>). Relative paths are passed over:
/// they meant another directory to whoever set them.
pub(crate) fn of_environment(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("HOME");
    let directory = |name: &str| {
        let path = set(name)?;
        let path = match (path.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path,
        };
        path.is_absolute().then_some(path)
    };
    let of_hub = || Some(directory("HF_HOME")?.join("hub"));
    let below = |caches: &Path| caches.join("huggingface/hub");
    let of_user = || directory("XDG_CACHE_HOME").map(|caches| below(&caches));
    let usual = || home.as_ref().filter(|home| home.is_absolute()).map(|home| below(&home.join(".cache")));
    directory("HF_HUB_CACHE").or_else(of_hub).or_else(of_user).or_else(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<String> {
        let found = of_environment(|name| {
            let (_, value) = variables.iter().find(|(known, _)| *known == name)?;
            Some(value.into())
        });
        found.map(|path| path.display().to_string())
    }

    #[test]
    fn the_nearest_variable_wins() {
        let mut all = vec![
            ("HOME", "/home/ann"),
            ("XDG_CACHE_HOME", "/c"),
            ("HF_HOME", "/hf"),
            ("HF_HUB_CACHE", "/hub"),
        ];
        for wanted in ["/hub", "/hf/hub", "/c/huggingface/hub", "/home/ann/.cache/huggingface/hub"] {
            assert_eq!(of(&all).as_deref(), Some(wanted));
            all.pop();
        }
        assert_eq!(of(&all), None);
    }

    #[test]
    fn a_home_is_filled_in_and_what_leads_nowhere_is_passed_over() {
        assert_eq!(of(&[("HOME", "/h"), ("HF_HOME", "~/hf")]).as_deref(), Some("/h/hf/hub"));
        let passed_over = [("HOME", "/h"), ("HF_HOME", "hf"), ("HF_HUB_CACHE", "")];
        assert_eq!(of(&passed_over).as_deref(), Some("/h/.cache/huggingface/hub"));
    }
}
