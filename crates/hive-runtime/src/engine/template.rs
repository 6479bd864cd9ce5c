//! Placeholders of an engine's command.

use std::path::Path;

use fleet::{DeviceKind, DeviceSelector};

/// What stands for the placeholders.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fill<'a> {
    /// `{model}`
    pub(crate) model: &'a Path,
    /// `{projector}`
    pub(crate) projector: Option<&'a Path>,
    /// `{served_name}`
    pub(crate) served_name: &'a str,
    /// `{port}`
    pub(crate) port: u16,
    /// `{context}`, of one slot; `{total_context}` is that of all.
    pub(crate) context: u32,
    /// `{slots}`
    pub(crate) slots: u32,
    /// `{device}` as `cuda:0`, `{device_index}` as `0`.
    pub(crate) device: DeviceSelector,
    /// `{device_name}`, what the engine calls it.
    pub(crate) device_name: &'a str,
}

impl Fill<'_> {
    /// One word of the command with its placeholders filled. Words stay words: no shell reads them.
    pub(crate) fn word(&self, word: &str) -> String {
        let total = u64::from(self.context) * u64::from(self.slots);
        let gpu_layers = if self.device.kind == DeviceKind::Cpu { "0" } else { "999" };
        let values = [
            ("{host}", "127.0.0.1".to_owned()),
            ("{port}", self.port.to_string()),
            ("{context}", self.context.to_string()),
            ("{total_context}", total.to_string()),
            ("{slots}", self.slots.to_string()),
            ("{device}", self.device.to_string()),
            ("{device_name}", self.device_name.to_owned()),
            ("{device_index}", self.device.index.to_string()),
            ("{gpu_layers}", gpu_layers.to_owned()),
            ("{served_name}", self.served_name.to_owned()),
            ("{model}", self.model.display().to_string()),
            ("{projector}", self.projector.map_or_else(String::new, |path| path.display().to_string())),
        ];
        // From left to right, once: what was filled in is never read as a placeholder again.
        let mut filled = String::new();
        let mut rest = word;
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            match values.iter().find(|(name, _)| rest.starts_with(name)) {
                Some((name, value)) => {
                    filled.push_str(value);
                    rest = &rest[name.len()..];
                }
                None => {
                    filled.push('{');
                    rest = &rest[1..];
                }
            }
        }
        filled.push_str(rest);
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_once_and_other_braces_stay() {
        let fill = Fill {
            model: Path::new("/m/{port}.gguf"),
            projector: None,
            served_name: "hf:a/b",
            port: 81,
            context: 4096,
            slots: 4,
            device: "cuda:1".parse().unwrap(),
            device_name: "CUDA1",
        };
        for (word, filled) in [
            ("{model}", "/m/{port}.gguf"),
            ("--port={port}", "--port=81"),
            ("{total_context}/{context}/{slots}", "16384/4096/4"),
            ("{device} {device_index} {device_name}", "cuda:1 1 CUDA1"),
            ("{\"a\":{port}}", "{\"a\":81}"),
            ("{unknown}{", "{unknown}{"),
        ] {
            assert_eq!(fill.word(word), filled);
        }
    }
}
