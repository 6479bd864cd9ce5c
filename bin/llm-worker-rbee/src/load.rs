//! From a file to an engine that answers.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context, bail};
use candle_core::Device;
use mistralrs_core::{
    AdapterPaths, DefaultSchedulerMethod, DeviceMapSetting, GGUFLoaderBuilder, GGUFSpecificConfig,
    LocalModelPaths, MistralRsBuilder, ModelDType, ModelPaths, SchedulerConfig,
};

use crate::args::{Args, DeviceChoice};
use crate::engine::{MistralEngine, Model};
use crate::vocabulary::{Vocabulary, limits};

/// What stands in a model file that the library has to be told, or that is not left to it.
struct Facts {
    shards: Vec<PathBuf>,
    vocabulary: Vocabulary,
}

/// Loads the model and waits until it has answered once.
pub(crate) async fn load(args: Args) -> anyhow::Result<MistralEngine> {
    let slots = NonZeroUsize::new(args.slots.into()).context("at least one slot is needed")?;
    let wanted = args.context;
    let loading = tokio::task::spawn_blocking(move || {
        let facts = facts(&args.model)?;
        let device = device(args.device)?;
        tracing::info!(model = %args.model.display(), device = ?device.location(), "loading");
        let on_cpu = device.is_cpu();
        pipeline(&args, facts.shards, &device).map(|model| (model, facts.vocabulary, on_cpu))
    });
    let (model, vocabulary, on_cpu) = match loading.await {
        Ok(loaded) => loaded?,
        Err(error) => bail!("the engine panicked: {}", panic_text(error.into_panic().as_ref())),
    };
    let metadata = model.lock().await.get_metadata();
    let most = u32::try_from(metadata.max_seq_len).unwrap_or(u32::MAX);
    let context = wanted.unwrap_or(most).min(most);
    if wanted.is_some_and(|wanted| wanted > most) {
        tracing::warn!(wanted, most, "the model was trained for less context than asked for");
    }
    let method = SchedulerConfig::DefaultScheduler { method: DefaultSchedulerMethod::Fixed(slots) };
    let mistral = MistralRsBuilder::new(Arc::clone(&model) as _, method, false, None)
        // On the CPU the library keeps the cache of every sequence it ever finished: it only counts those on a GPU when
        // it looks for something to evict.
        .with_no_prefix_cache(on_cpu)
        .build()
        .await;
    Ok(MistralEngine {
        mistral,
        model,
        vocabulary: Arc::new(vocabulary),
        ends: metadata.eos_tok.as_slice().into(),
        context,
        next_id: AtomicUsize::new(1),
    })
}

/// Reads the header, which also finds a file that is missing, cut off or something else.
fn facts(path: &Path) -> anyhow::Result<Facts> {
    let read = |path: &Path| {
        gguf::read_file_with(path, &limits()).with_context(|| format!("cannot load {}", path.display()))
    };
    let file = read(path)?;
    let model = file.header.model()?;
    let Some(split) = model.split else {
        return Ok(Facts {
            shards: vec![path.to_owned()],
            vocabulary: Vocabulary::from_header(&file.header)?,
        });
    };
    let Some(shards) = gguf::shard_paths(path, split.count) else {
        bail!("{} is a shard of {}, but its name does not say so", path.display(), split.count);
    };
    let headers = shards.iter().map(|shard| read(shard)).collect::<anyhow::Result<Vec<_>>>()?;
    let first = headers.first().context("a model has at least one file")?;
    Ok(Facts { vocabulary: Vocabulary::from_header(&first.header)?, shards })
}

/// The device asked for, or the reason why this build or machine does not have it.
fn device(choice: DeviceChoice) -> anyhow::Result<Device> {
    let built =
        |feature: &str| format!("this build cannot use it: it was made without the feature {feature}");
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(index) if cfg!(feature = "cuda") => {
            Device::new_cuda(index).with_context(|| format!("cannot use cuda:{index}"))
        }
        DeviceChoice::Metal if cfg!(feature = "metal") => Device::new_metal(0).context("cannot use metal"),
        DeviceChoice::Cuda(index) => bail!("cannot use cuda:{index}: {}", built("cuda")),
        DeviceChoice::Metal => bail!("cannot use metal: {}", built("metal")),
        DeviceChoice::Auto if cfg!(feature = "cuda") => or_cpu(Device::new_cuda(0)),
        DeviceChoice::Auto if cfg!(feature = "metal") => or_cpu(Device::new_metal(0)),
        DeviceChoice::Auto => Ok(Device::Cpu),
    }
}

/// `auto` must work on any machine, but never quietly: a GPU that is not used is what its owner looks for.
fn or_cpu(device: candle_core::Result<Device>) -> anyhow::Result<Device> {
    Ok(device.unwrap_or_else(|error| {
        tracing::warn!(%error, "no usable gpu, computing on the cpu");
        Device::Cpu
    }))
}

/// Loads from exactly these files. The library's usual way, by a model's name, would look into its cache directory, create
/// it, and ask the model hub for what is not there.
fn pipeline(args: &Args, shards: Vec<PathBuf>, device: &Device) -> anyhow::Result<Model> {
    let paths: Box<dyn ModelPaths> = Box::new(LocalModelPaths {
        tokenizer_filename: PathBuf::new(),
        config_filename: PathBuf::new(),
        template_filename: None,
        filenames: shards,
        adapter_paths: AdapterPaths::None,
        gen_conf: None,
        preprocessor_config: None,
        processor_config: None,
        chat_template_json_filename: None,
    });
    let name = args.served_name.clone();
    let loader =
        GGUFLoaderBuilder::new(None, None, name, Vec::new(), GGUFSpecificConfig::default(), false, None)
            .build();
    // Attention on the CPU computes in single precision anyway, and converting every cached number costs more than the
    // memory it saves.
    let precision = if device.is_cpu() { ModelDType::F32 } else { ModelDType::Auto };
    let model =
        loader.load_model_from_path(&paths, &precision, device, true, DeviceMapSetting::dummy(), None, None);
    model.with_context(|| format!("cannot load {}", args.model.display()))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason given")
}
