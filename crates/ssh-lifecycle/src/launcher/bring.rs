//! What goes to a machine: the hive for its kind, and the engines for its devices.

use std::sync::Arc;

use fleet::{DeviceKind, EngineOrigin, EngineSpec, Hostname, LaunchProgress, LaunchStage, Target};

use super::SshLauncher;
use crate::{
    BundleError, Machine, SshError,
    bundle::{Bundle, EngineFiles},
    upload::Tell,
};

impl SshLauncher {
    /// The files for a machine. Engines that are not at hand are fetched before.
    pub(super) async fn bundle(
        &self,
        host: &Hostname,
        machine: &Machine,
        tell: &Tell,
    ) -> Result<Bundle, SshError> {
        let Some(target) = machine.target else {
            let (system, arch) = (machine.system.clone(), machine.arch.clone());
            return Err(SshError::Machine { host: host.clone(), system, arch });
        };
        let engines = self.engines(host, target, &machine.devices(), tell).await?;
        let (bundles, settings) = (self.bundles.clone(), Arc::clone(&self.settings));
        let found = tokio::task::spawn_blocking(move || bundles.find(&settings, target, &engines)).await;
        let failed = |reason: String| SshError::Own { host: host.clone(), reason };
        let found = found.map_err(|error| failed(error.to_string()))?;
        found.map_err(|source| SshError::Bundle { host: host.clone(), source })
    }

    async fn engines(
        &self,
        host: &Hostname,
        target: Target,
        devices: &[DeviceKind],
        tell: &Tell,
    ) -> Result<Vec<EngineFiles>, SshError> {
        let mut engines = Vec::new();
        for engine in chosen(&self.settings.engines, target, devices) {
            engines.push(self.engine(host, engine, tell).await?);
        }
        Ok(engines)
    }

    async fn engine(
        &self,
        host: &Hostname,
        engine: &EngineSpec,
        tell: &Tell,
    ) -> Result<EngineFiles, SshError> {
        let name = engine.name.clone();
        let (url, sha256) = match &engine.origin {
            EngineOrigin::Path { path, sha256 } => {
                return Ok(EngineFiles { name, path: path.clone(), sha256: *sha256 });
            }
            EngineOrigin::Url { url, sha256 } => (url, *sha256),
        };
        let Some(store) = &self.settings.engine_store else {
            let (path, reason) = (url.shown().into(), "nothing is fetched here".to_owned());
            return Err(SshError::Bundle {
                host: host.clone(),
                source: BundleError::Engine { path, reason },
            });
        };
        let detail = format!("{name} ({})", engine.backend.as_str());
        let fetching = store.get(url, sha256, &name, |progress| {
            let (bytes, total) = (Some(progress.bytes), progress.total);
            tell(LaunchProgress { stage: LaunchStage::Fetch, detail: Some(detail.clone()), bytes, total });
        });
        let path = fetching.await.map_err(|source| SshError::Engine { host: host.clone(), source })?;
        Ok(EngineFiles { name, path, sha256: None })
    }
}

/// The engines for a machine of that kind with these devices, the preferred one of each name.
fn chosen<'a>(engines: &'a [EngineSpec], target: Target, devices: &[DeviceKind]) -> Vec<&'a EngineSpec> {
    let fits = |engine: &&EngineSpec| {
        engine.target == target && (engine.backend == DeviceKind::Cpu || devices.contains(&engine.backend))
    };
    let mut chosen: Vec<&EngineSpec> = Vec::new();
    for engine in engines.iter().filter(fits) {
        // One that is not brought need not be fetched.
        if !chosen.iter().any(|other| other.name == engine.name) {
            chosen.push(engine);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_comes_along_where_its_device_is() {
        let engine = |name: &str, target: &str, backend| EngineSpec {
            name: name.parse().expect("a name"),
            target: target.parse().expect("a kind"),
            backend,
            origin: EngineOrigin::Path { path: backend.as_str().into(), sha256: None },
        };
        let engines = [
            engine("llama-server", "linux-x86_64", DeviceKind::Cuda),
            engine("llama-server", "linux-x86_64", DeviceKind::Vulkan),
            engine("llama-server", "linux-x86_64", DeviceKind::Cpu),
            engine("other", "linux-x86_64", DeviceKind::Cpu),
            engine("llama-server", "macos-aarch64", DeviceKind::Metal),
        ];
        let backends = |target: &str, devices: &[DeviceKind]| {
            let target = target.parse().expect("a kind");
            let chosen = chosen(&engines, target, devices);
            chosen.into_iter().map(|engine| engine.backend).collect::<Vec<_>>()
        };
        use DeviceKind::{Cpu, Cuda, Metal, Vulkan};
        assert_eq!(backends("linux-x86_64", &[]), [Cpu, Cpu]);
        assert_eq!(backends("linux-x86_64", &[Vulkan]), [Vulkan, Cpu]);
        assert_eq!(backends("linux-x86_64", &[Vulkan, Cuda]), [Cuda, Cpu]);
        assert_eq!(backends("macos-aarch64", &[Metal]), [Metal]);
        assert_eq!(backends("linux-aarch64", &[Vulkan]), []);
    }
}
