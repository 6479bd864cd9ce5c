//! The engines of this machine.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fleet::DeviceKind;

use super::{Dialect, EngineSpec};
use crate::settings::EngineSetting;

const LLAMA_SERVER: &str = "llama-server";
const BUILTIN: &str = "llm-worker-rbee";

/// All engines, preferred first. One of the owner's whose program is missing is still listed, so that asking for it tells
/// what is missing instead of silently taking another.
pub(super) fn find(configured: &[EngineSetting]) -> Vec<EngineSpec> {
    let mut engines: Vec<EngineSpec> = configured.iter().map(of_owner).collect();
    engines.extend(on_path(LLAMA_SERVER).map(llama_server));
    engines.extend(beside_us(BUILTIN).or_else(|| on_path(BUILTIN)).map(builtin));
    engines
}

fn of_owner(setting: &EngineSetting) -> EngineSpec {
    let (program, args) = setting.command.split_first().map_or((BUILTIN, &[][..]), |(p, a)| (p.as_str(), a));
    let found = on_path(program).filter(|path| is_executable(path));
    EngineSpec {
        name: setting.name.clone(),
        version: None,
        is_installed: found.is_some(),
        program: found.unwrap_or_else(|| program.into()),
        args: args.to_vec(),
        health: setting.health.clone(),
        devices: setting.devices.clone(),
        running_usage: setting.running_usage.clone(),
        chat_prefill: setting.chat_prefill.clone(),
        env: setting.env.clone(),
        device_names: BTreeMap::new(),
        dialect: Dialect::Plain,
        projector_args: Vec::new(),
    }
}

/// Explicit in everything that its `--fit` would otherwise decide silently.
pub(super) fn llama_server(program: PathBuf) -> EngineSpec {
    let args = "-m {model} --alias {served_name} --host {host} --port {port} -c {total_context} -np {slots} -ngl \
                {gpu_layers} --metrics";
    EngineSpec {
        name: LLAMA_SERVER.to_owned(),
        version: None,
        program,
        is_installed: true,
        args: args.split_whitespace().map(str::to_owned).collect(),
        health: "/health".to_owned(),
        devices: vec![DeviceKind::Cpu],
        running_usage: Some("timings_per_token".to_owned()),
        chat_prefill: Some("assistant_message".to_owned()),
        env: BTreeMap::new(),
        device_names: BTreeMap::new(),
        dialect: Dialect::LlamaServer,
        projector_args: Vec::new(),
    }
}

fn builtin(program: PathBuf) -> EngineSpec {
    let args = "--model {model} --served-name {served_name} --host {host} --port {port} --context {context} --slots \
                {slots} --device {device}";
    EngineSpec {
        name: BUILTIN.to_owned(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        program,
        is_installed: true,
        args: args.split_whitespace().map(str::to_owned).collect(),
        health: "/health".to_owned(),
        devices: vec![DeviceKind::Cpu],
        running_usage: Some("stream_options.continuous_usage_stats".to_owned()),
        chat_prefill: Some("continue_final_message".to_owned()),
        env: BTreeMap::new(),
        device_names: BTreeMap::new(),
        dialect: Dialect::Builtin,
        projector_args: Vec::new(),
    }
}

fn beside_us(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.join(name);
    is_executable(&path).then_some(path)
}

/// As `execvp` would find it: a name with a slash is a path.
fn on_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
