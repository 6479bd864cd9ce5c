//! Files that are broken, hostile or merely unusual.

use gguf::{Array, Error, Header, Limits, PerLayer, Split, Value, ValueType, Writer};
use proptest::prelude::*;

/// A header built byte by byte, so that it can be wrong.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn new(tensors: u64, entries: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(entries)
    }
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    fn text(self, text: &[u8]) -> Self {
        let mut this = self.u64(text.len() as u64);
        this.0.extend(text);
        this
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    fn error(&self) -> String {
        match Header::parse(&self.0) {
            Ok(header) => format!("accepted: {header:?}"),
            Err(error) => error.to_string(),
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table: one line per way of being broken")]
fn every_malformed_file_is_refused_by_name() {
    let string = ValueType::String as u32;
    let array = ValueType::Array as u32;
    let nested = (0..6).fold(Raw::new(0, 1).text(b"k").u32(array), |raw, _| raw.u32(array).u64(1));
    let tensor = |dimensions: &[u64], kind: u32, offset: u64| {
        let raw = Raw::new(1, 0).text(b"w").u32(dimensions.len() as u32);
        dimensions.iter().fold(raw, |raw, &d| raw.u64(d)).u32(kind).u64(offset)
    };
    let cases: &[(&str, Raw, &str)] = &[
        ("another format", Raw(b"<htm".to_vec()), "not a GGUF file: it starts with [3c, 68, 74, 6d]"),
        ("version 1", Raw(b"GGUF".to_vec()).u32(1), "GGUF version 0x1 is not supported"),
        ("big endian", Raw(b"GGUF".to_vec()).bytes(&3_u32.to_be_bytes()), "GGUF version 0x3000000 is not"),
        (
            "too many tensors",
            Raw::new(u64::MAX, 0),
            "number of tensors of 18446744073709551615 is implausible",
        ),
        ("too many entries", Raw::new(0, 1 << 40), "number of metadata entries of"),
        (
            "an endless key",
            Raw::new(0, 1).u64(u64::MAX),
            "metadata key of 18446744073709551615 is implausible",
        ),
        ("an endless text", Raw::new(0, 1).text(b"k").u32(string).u64(1 << 62), "metadata text of"),
        (
            "an endless list",
            Raw::new(0, 1).text(b"k").u32(array).u32(10).u64(u64::MAX),
            "length of the header of",
        ),
        (
            "a list of endless texts",
            Raw::new(0, 1).text(b"k").u32(array).u32(string).u64(1 << 60).u64(1 << 60),
            "length of a metadata text",
        ),
        ("a deep list", nested, "depth of arrays of 5 is implausible"),
        ("an unknown type", Raw::new(0, 1).text(b"k").u32(13), "unknown value type 13"),
        ("a list of an unknown type", Raw::new(0, 1).text(b"k").u32(array).u32(99), "unknown value type 99"),
        (
            "a key that is not UTF-8",
            Raw::new(0, 1).text(b"\xff\xfe").u32(0).bytes(&[0]),
            "metadata key is not UTF-8",
        ),
        ("a boolean of 2", Raw::new(0, 1).text(b"k").u32(7).bytes(&[2]), "2 is not a boolean"),
        (
            "a key twice",
            Raw::new(0, 2).text(b"k").u32(0).bytes(&[1]).text(b"k").u32(0).bytes(&[1]),
            "key \"k\" occurs twice",
        ),
        ("too many dimensions", Raw::new(1, 0).text(b"w").u32(9), "number of dimensions of 9 is implausible"),
        ("an overflowing shape", tensor(&[u64::MAX, u64::MAX], 0, 0), "tensor \"w\" has an impossible shape"),
        ("half a block", tensor(&[100], 12, 0), "tensor \"w\" has an impossible shape [100]"),
        ("an overflowing offset", tensor(&[4], 0, u64::MAX), "tensor \"w\" has an impossible shape"),
        (
            "an odd alignment",
            Raw::new(0, 1).text(b"general.alignment").u32(4).u32(48),
            "alignment 48 is not a power of two",
        ),
        (
            "a huge alignment",
            Raw::new(0, 1).text(b"general.alignment").u32(10).u64(1 << 63),
            "alignment 9223372036854775808",
        ),
        (
            "a textual alignment",
            Raw::new(0, 1).text(b"general.alignment").u32(8).text(b"x"),
            "\"general.alignment\" has the type String",
        ),
    ];
    for (what, raw, expected) in cases {
        let error = raw.error();
        assert!(error.starts_with(expected), "{what}: {error}");
    }
}

#[test]
fn a_tensor_that_occurs_twice_is_refused() {
    let bytes =
        Writer::new().with_f32("w", &[1], vec![0.0]).with_f32("w", &[1], vec![0.0]).to_bytes().unwrap();
    assert!(matches!(Header::parse(&bytes), Err(Error::Duplicate { what: "tensor", .. })));
}

/// Bringing what the error asks for must always end at the whole header, and never ask for more than there is.
#[test]
fn a_prefix_asks_for_more_until_the_header_is_whole() {
    let bytes = llama().with_f32("w", &[64], vec![1.0; 64]).to_bytes().unwrap();
    let whole = Header::parse(&bytes).unwrap();
    let mut length = 0;
    let mut rounds = 0;
    let header = loop {
        match Header::parse(&bytes[..length]) {
            Ok(header) => break header,
            Err(Error::Truncated { needed }) => {
                assert!(needed > length as u64 && needed <= whole.data_offset, "{needed} after {length}");
                length = usize::try_from(needed).unwrap();
            }
            Err(other) => panic!("{other}"),
        }
        rounds += 1;
    };
    assert_eq!(header, whole);
    assert!(rounds > 10);
}

#[test]
fn a_long_list_keeps_its_length_only() {
    let words = Array::strings((0..5000).map(|i| i.to_string()));
    let bytes = llama().with("tokenizer.ggml.tokens", words.clone()).to_bytes().unwrap();
    let header = Header::parse(&bytes).unwrap();
    let kept = header.array("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!((kept.len, &kept.items), (5000, &None));
    assert_eq!(header.model().unwrap().vocab_size, Some(5000));

    let all = Header::read(&bytes[..], &Limits { kept_array: 5000, ..Limits::default() }).unwrap();
    assert_eq!(all.array("tokenizer.ggml.tokens").unwrap(), Some(&words));
}

fn llama() -> Writer {
    Writer::new()
        .with("general.architecture", "llama")
        .with("general.file_type", 15_u32)
        .with("llama.block_count", 32_u32)
        .with("llama.embedding_length", 4096_u32)
        .with("llama.context_length", 8192_u32)
        .with("llama.attention.head_count", 32_u32)
}

#[test]
fn the_facts_about_a_model_come_with_their_fallbacks() {
    let model = Header::parse(&llama().to_bytes().unwrap()).unwrap().model().unwrap();
    assert_eq!(model.architecture, "llama");
    assert_eq!(model.quant, Some("Q4_K_M"));
    assert_eq!((model.block_count, model.context_length), (Some(32), Some(8192)));
    assert_eq!(model.head_count_kv, Some(PerLayer::Same(32)));
    assert_eq!((model.key_length, model.value_length), (Some(128), Some(128)));
    assert_eq!((model.split, model.latent, model.has_chat_template), (None, None, false));
}

#[test]
fn heads_may_differ_between_layers_and_attention_may_be_latent() {
    let bytes = llama()
        .with("llama.attention.head_count_kv", Array::i32s([8, 0, 8]))
        .with("llama.attention.key_length", 192_u32)
        .with("llama.attention.kv_lora_rank", 512_u32)
        .with("llama.attention.key_length_mla", 192_u32)
        .with("llama.attention.sliding_window", 1024_u32)
        .with("llama.expert_count", 64_u32)
        .with("llama.expert_used_count", 6_u32)
        .with("split.no", Value::U16(1))
        .with("split.count", Value::U16(3))
        .with("tokenizer.chat_template", "{{ messages }}")
        .to_bytes()
        .unwrap();
    let model = Header::parse(&bytes).unwrap().model().unwrap();
    let kv = model.head_count_kv.unwrap();
    assert_eq!((kv.total(3), kv.largest()), (16, 8));
    assert_eq!((model.key_length, model.value_length), (Some(192), Some(128)));
    assert_eq!(model.latent.map(|l| (l.kv_rank, l.key_length)), Some((512, Some(192))));
    assert_eq!(model.sliding_window, Some(1024));
    assert_eq!(model.experts, Some((64, Some(6))));
    assert_eq!(model.split, Some(Split { number: 1, count: 3 }));
    assert!(model.has_chat_template);
}

#[test]
fn a_header_without_an_architecture_or_with_a_senseless_value_says_so() {
    let nameless = Header::parse(&Writer::new().to_bytes().unwrap()).unwrap();
    assert_eq!(nameless.model().unwrap_err().to_string(), "the metadata has no \"general.architecture\"");
    let senseless = llama().with("llama.vocab_size", "many").to_bytes().unwrap();
    let error = Header::parse(&senseless).unwrap().model().unwrap_err();
    assert_eq!(error.to_string(), "\"llama.vocab_size\" has the type String, which it cannot have");
    // Dividing by no heads is not a reason to panic.
    let headless = Writer::new()
        .with("general.architecture", "x")
        .with("x.embedding_length", 8_u32)
        .with("x.attention.head_count", 0_u32);
    assert_eq!(Header::parse(&headless.to_bytes().unwrap()).unwrap().model().unwrap().key_length, None);
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<bool>().prop_map(Value::Bool),
        (-1e30_f32..1e30).prop_map(Value::F32),
        ".{0,40}".prop_map(Value::String),
        prop::collection::vec(".{0,8}", 0..20).prop_map(|texts| Value::Array(Array::strings(texts))),
    ]
}

proptest! {
    #[test]
    fn what_was_written_is_what_is_read(
        metadata in prop::collection::btree_map("[a-z.]{1,20}", scalar(), 0..12),
        sizes in prop::collection::vec(1_u64..70, 0..6),
    ) {
        let mut writer = Writer::new();
        for (key, value) in &metadata {
            writer = writer.with(key, value.clone());
        }
        for (i, &size) in sizes.iter().enumerate() {
            let weights = vec![0.5; usize::try_from(size * 2).unwrap()];
            writer = if i % 2 == 0 {
                writer.with_f32(&format!("t{i}"), &[size, 2], weights)
            } else {
                writer.with_f16(&format!("t{i}"), &[size, 2], weights)
            };
        }
        let alignment_is_ours = !metadata.contains_key("general.alignment");
        prop_assume!(alignment_is_ours);
        let bytes = writer.to_bytes().unwrap();
        let header = Header::parse(&bytes).unwrap();
        prop_assert_eq!(&header.metadata, &metadata);
        let shapes: Vec<_> = header.tensors.iter().map(|tensor| tensor.dimensions.clone()).collect();
        prop_assert_eq!(shapes, sizes.iter().map(|&size| vec![size, 2]).collect::<Vec<_>>());
        prop_assert_eq!(header.data_offset % 32, 0);
        prop_assert!(header.tensors.iter().all(|tensor| tensor.offset % 32 == 0));
        prop_assert!(header.check_len(bytes.len() as u64).is_ok());
        if !sizes.is_empty() {
            prop_assert!(header.check_len(header.expected_len() - 1).is_err());
        }
        // Without its last bytes it is a truncated header or a short file, but never another header.
        if header.data_offset > 32 {
            let cut = Header::parse(&bytes[..24]);
            let is_truncated = matches!(cut, Err(Error::Truncated { .. }));
            prop_assert!(is_truncated || (metadata.is_empty() && sizes.is_empty()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Header::parse(&bytes);
    }

    #[test]
    fn no_bytes_behind_a_plausible_start_make_it_panic(
        tensors in 0_u64..4,
        entries in 0_u64..4,
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), 2..14_u8, any::<u8>()], 0..300),
    ) {
        if let Ok(header) = Header::parse(&Raw::new(tensors, entries).bytes(&bytes).0) {
            let _ = header.model();
            let _ = (header.tensor_bytes(), header.expected_len());
        }
    }

    #[test]
    fn no_flipped_byte_makes_it_panic(at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut bytes = llama()
            .with("llama.attention.head_count_kv", Array::i32s([8, 0, 8]))
            .with_f32("w", &[8, 2], vec![0.0; 16])
            .to_bytes()
            .unwrap();
        let at = at.index(bytes.len());
        bytes[at] = with;
        if let Ok(header) = Header::parse(&bytes) {
            let _ = (header.model(), header.tensor_bytes(), header.expected_len());
        }
    }
}
