//! What a header says about its model: the numbers from which memory need is computed.

use crate::error::Error;
use crate::header::Header;
use crate::quant::file_type_name;
use crate::value::Value;

/// A number that most models have once and some have for every layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PerLayer {
    /// The same in every layer.
    Same(u64),
    /// One number for each layer; zero marks a layer without attention.
    Each(Vec<u64>),
}

impl PerLayer {
    /// The sum over `layers` layers.
    #[must_use]
    pub fn total(&self, layers: u64) -> u64 {
        match self {
            Self::Same(number) => number.saturating_mul(layers),
            Self::Each(numbers) => numbers.iter().fold(0_u64, |sum, &number| sum.saturating_add(number)),
        }
    }

    /// The largest number of any layer.
    #[must_use]
    pub fn largest(&self) -> u64 {
        match self {
            Self::Same(number) => *number,
            Self::Each(numbers) => numbers.iter().copied().max().unwrap_or(0),
        }
    }
}

/// The shape of multi-head latent attention, which caches one compressed vector per token instead of keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentAttention {
    /// The rank of the compressed keys and values (`attention.kv_lora_rank`).
    pub kv_rank: u64,
    /// The rank of the compressed queries (`attention.q_lora_rank`), where they are compressed.
    pub q_rank: Option<u64>,
    /// The length of an uncompressed key (`attention.key_length_mla`).
    pub key_length: Option<u64>,
    /// The length of an uncompressed value (`attention.value_length_mla`).
    pub value_length: Option<u64>,
}

/// Which part of a model in several files this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// The number of this file, from zero.
    pub number: u64,
    /// How many files there are.
    pub count: u64,
}

/// The facts about a model that its header states. Everything but the architecture may be missing: only a model's first
/// shard carries them, and some files are vocabularies or adapters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// `general.architecture`, such as `llama`.
    pub architecture: String,
    /// `general.name`, as its maker calls it.
    pub name: Option<String>,
    /// Number of layers.
    pub block_count: Option<u64>,
    /// Width of the hidden state.
    pub embedding_length: Option<u64>,
    /// The longest context it was trained for, in tokens.
    pub context_length: Option<u64>,
    /// Query heads.
    pub head_count: Option<PerLayer>,
    /// Heads that keys and values are cached for; the query heads where the file says nothing.
    pub head_count_kv: Option<PerLayer>,
    /// Length of one key; embedding length / heads where the file says nothing.
    pub key_length: Option<u64>,
    /// Length of one value; embedding length / heads where the file says nothing.
    pub value_length: Option<u64>,
    /// How far back a layer with a window looks, in tokens.
    pub sliding_window: Option<u64>,
    /// Present where attention is latent.
    pub latent: Option<LatentAttention>,
    /// Experts per layer of a mixture, and how many of them a token uses.
    pub experts: Option<(u64, Option<u64>)>,
    /// Number of tokens in the vocabulary.
    pub vocab_size: Option<u64>,
    /// The quantisation by the name people use, such as `Q4_K_M`.
    pub quant: Option<&'static str>,
    /// Present where the model lies in several files.
    pub split: Option<Split>,
    /// Whether the file brings a template for chat messages.
    pub has_chat_template: bool,
}

impl ModelInfo {
    pub(crate) fn from_header(header: &Header) -> Result<Self, Error> {
        let architecture = match header.text("general.architecture")? {
            Some(architecture) => architecture.to_owned(),
            None => return Err(Error::MissingKey("general.architecture".to_owned())),
        };
        let keys = Keys { header, architecture: &architecture };
        let embedding_length = keys.integer("embedding_length")?;
        let head_count = keys.per_layer("attention.head_count")?;
        let head_length = embedding_length
            .zip(head_count.as_ref())
            .and_then(|(width, heads)| width.checked_div(heads.largest()));
        Ok(Self {
            name: header.text("general.name")?.map(str::to_owned),
            block_count: keys.integer("block_count")?,
            context_length: keys.integer("context_length")?,
            head_count_kv: keys.per_layer("attention.head_count_kv")?.or_else(|| head_count.clone()),
            key_length: keys.integer("attention.key_length")?.or(head_length),
            value_length: keys.integer("attention.value_length")?.or(head_length),
            sliding_window: keys.integer("attention.sliding_window")?,
            latent: keys.latent()?,
            experts: match keys.integer("expert_count")? {
                Some(0) | None => None,
                Some(count) => Some((count, keys.integer("expert_used_count")?)),
            },
            vocab_size: keys.vocab_size()?,
            quant: header.integer("general.file_type")?.and_then(file_type_name),
            split: match (header.integer("split.no")?, header.integer("split.count")?) {
                (Some(number), Some(count)) if count > 1 => Some(Split { number, count }),
                _ => None,
            },
            has_chat_template: header.text("tokenizer.chat_template")?.is_some_and(|text| !text.is_empty()),
            embedding_length,
            head_count,
            architecture,
        })
    }
}

/// Look-ups below the prefix that the architecture gives to its keys.
struct Keys<'a> {
    header: &'a Header,
    architecture: &'a str,
}

impl Keys<'_> {
    fn integer(&self, key: &str) -> Result<Option<u64>, Error> {
        self.header.integer(&self.full(key))
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn per_layer(&self, key: &str) -> Result<Option<PerLayer>, Error> {
        let key = self.full(key);
        let Some(value) = self.header.metadata.get(&key) else { return Ok(None) };
        let numbers = match value {
            Value::Array(array) => array
                .items
                .as_ref()
                .and_then(|items| items.iter().map(Value::as_u64).collect::<Option<_>>())
                .map(PerLayer::Each),
            other => other.as_u64().map(PerLayer::Same),
        };
        match numbers {
            Some(numbers) => Ok(Some(numbers)),
            None => Err(Error::WrongType { key, found: value.value_type() }),
        }
    }

    fn latent(&self) -> Result<Option<LatentAttention>, Error> {
        let Some(kv_rank) = self.integer("attention.kv_lora_rank")? else { return Ok(None) };
        Ok(Some(LatentAttention {
            kv_rank,
            q_rank: self.integer("attention.q_lora_rank")?,
            key_length: self.integer("attention.key_length_mla")?,
            value_length: self.integer("attention.value_length_mla")?,
        }))
    }

    fn vocab_size(&self) -> Result<Option<u64>, Error> {
        if let Some(size) = self.integer("vocab_size")? {
            return Ok(Some(size));
        }
        if let Some(tokens) = self.header.array("tokenizer.ggml.tokens")? {
            return Ok(Some(tokens.len));
        }
        let embedding = self.header.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
        Ok(embedding.and_then(|tensor| tensor.dimensions.get(1).copied()))
    }
}
