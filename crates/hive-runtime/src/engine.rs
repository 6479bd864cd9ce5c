//! Engines: which programs of this machine can serve a model, which one is taken, and how it is called.
//!
//! Preferred are those that the owner wrote into `hive.toml`, in that order: who writes one down wants it used. Then
//! `llama-server` from `PATH`, then the built-in `llm-worker-rbee` beside this program or on `PATH`.

mod choose;
mod find;
mod llama;
mod template;

use std::{collections::BTreeMap, path::PathBuf};

use fleet::{Device, DeviceKind, DeviceSelector, Engine};

pub(crate) use choose::{NoEngine, choose};
pub(crate) use template::Fill;

use crate::settings::EngineSetting;

/// How a running engine tells its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dialect {
    /// llama.cpp's server: `/slots` and `/metrics`.
    LlamaServer,
    /// The built-in worker: `/rbee/status`.
    Builtin,
    /// Health only.
    Plain,
}

/// An engine that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EngineSpec {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) program: PathBuf,
    /// Whether the program was there when the hive started.
    pub(crate) is_installed: bool,
    /// With placeholders; see [`Fill`].
    pub(crate) args: Vec<String>,
    /// Path that answers 200 once it takes requests.
    pub(crate) health: String,
    /// Preferred first.
    pub(crate) devices: Vec<DeviceKind>,
    pub(crate) running_usage: Option<String>,
    pub(crate) chat_prefill: Option<String>,
    pub(crate) env: BTreeMap<String, String>,
    /// What the engine calls devices that it names its own way.
    pub(crate) device_names: BTreeMap<DeviceSelector, String>,
    pub(crate) dialect: Dialect,
    /// Added to its arguments where the model has a projector; empty where it takes none.
    pub(crate) projector_args: Vec<String>,
}

/// All engines of this machine, preferred first. Devices that only an engine knows of are added to `devices`.
pub(crate) async fn find(configured: &[EngineSetting], devices: &mut Vec<Device>) -> Vec<EngineSpec> {
    let mut engines = find::find(configured);
    for engine in engines.iter_mut().filter(|engine| engine.dialect == Dialect::LlamaServer) {
        llama::complete(engine, devices).await;
    }
    engines
}

impl EngineSpec {
    pub(crate) fn announced(&self) -> Engine {
        Engine {
            name: self.name.clone(),
            version: self.version.clone(),
            devices: self.devices.clone(),
            running_usage: self.running_usage.clone(),
            chat_prefill: self.chat_prefill.clone(),
        }
    }

    /// Its arguments for one worker.
    pub(crate) fn filled(&self, fill: &Fill<'_>) -> Vec<String> {
        let more = fill.projector.map_or([].as_slice(), |_| &self.projector_args);
        self.args.iter().chain(more).map(|word| fill.word(word)).collect()
    }

    /// Whether its `/v1/models` must name the model as it was told to.
    pub(crate) fn is_told_the_name(&self) -> bool {
        self.args.iter().any(|arg| arg.contains("{served_name}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_projector_is_given_to_an_engine_that_takes_one() {
        let mut engine = find::llama_server("llama-server".into());
        engine.args = vec!["-m".to_owned(), "{model}".to_owned()];
        let filled = |engine: &EngineSpec, projector| {
            let fill = Fill {
                model: Path::new("/m/a.gguf"),
                projector,
                served_name: "hf:a/b",
                port: 1,
                context: 1,
                slots: 1,
                device: "cpu:0".parse().unwrap(),
                device_name: "none",
            };
            engine.filled(&fill).join(" ")
        };
        let projector = Some(Path::new("/m/mmproj.gguf"));
        assert_eq!(filled(&engine, projector), "-m /m/a.gguf");
        engine.projector_args = ["--mmproj", "{projector}"].map(str::to_owned).into();
        assert_eq!(filled(&engine, projector), "-m /m/a.gguf --mmproj /m/mmproj.gguf");
        assert_eq!(filled(&engine, None), "-m /m/a.gguf");
    }
}
