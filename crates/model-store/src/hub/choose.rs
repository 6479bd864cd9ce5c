//! Which files of a repository a reference means.

use std::collections::BTreeMap;

/// What is taken when a reference names no file and there are several.
const USUAL: &str = "Q4_K_M";

/// Why a reference means no model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoChoice {
    /// Nothing fits.
    None,
    /// Several do; the first file of each.
    Ambiguous(Vec<String>),
}

/// The files of the one model that is meant, in order of shards, and its projector behind them: the file or quantisation named,
/// else the only model, else the one of the usual quantisation.
pub(crate) fn choose(names: &[&str], wanted: Option<&str>) -> Result<Vec<String>, NoChoice> {
    let models = models(names);
    let fitting = |quant: &str| -> Vec<&Vec<String>> {
        models.values().filter(|files| is_quant(&files[0], quant)).collect()
    };
    let found: Vec<&Vec<String>> = match wanted {
        Some(file) if file.ends_with(".gguf") => {
            models.values().filter(|files| files.iter().any(|name| name == file)).collect()
        }
        Some(quant) => fitting(quant),
        None if models.len() > 1 => match fitting(USUAL) {
            usual if usual.len() == 1 => usual,
            _ => models.values().collect(),
        },
        None => models.values().collect(),
    };
    match found.as_slice() {
        [] if wanted.is_none() || models.is_empty() => Err(NoChoice::None),
        // Somebody who asked for what is not there is helped by what is.
        [] => Err(NoChoice::Ambiguous(models.into_values().map(|files| files[0].clone()).collect())),
        [files] => Ok(files.iter().cloned().chain(projector(names, &files[0])).collect()),
        several => Err(NoChoice::Ambiguous(several.iter().map(|files| files[0].clone()).collect())),
    }
}

/// Every model of a repository, each as [`choose`] would give it.
pub(crate) fn all_models(names: &[&str]) -> Vec<Vec<String>> {
    let with_projector = |files: Vec<String>| {
        let projector = files.first().and_then(|first| projector(names, first));
        files.into_iter().chain(projector).collect()
    };
    models(names).into_values().map(with_projector).collect()
}

/// Precisions in which projectors come, in the order in which they are taken: they are small, and half precision is what engines
/// are tested with.
const PRECISIONS: [&str; 4] = ["f16", "bf16", "q8_0", "f32"];

/// Whether a file projects images or sounds into what a model understands, which is of no use alone.
pub(crate) fn is_projector(path: &str) -> bool {
    path.rsplit('/').next().unwrap_or(path).to_lowercase().starts_with("mmproj")
}

/// The projector of a model, in its directory or else at the top of the repository. Of several that differ in more than their
/// precision none is taken: it would be another model's as likely.
fn projector(names: &[&str], model: &str) -> Option<String> {
    let dir = |path: &str| path.rsplit_once('/').map_or(String::new(), |(dir, _)| dir.to_owned());
    let all = || names.iter().filter(|name| name.ends_with(".gguf") && is_projector(name));
    let found: Vec<&&str> = [dir(model), String::new()]
        .iter()
        .map(|at| all().filter(|name| dir(name) == *at).collect())
        .find(|found: &Vec<_>| !found.is_empty())?;
    let split = |name: &str| {
        let base = name.to_lowercase();
        let rank = PRECISIONS.iter().position(|precision| is_quant(&base, precision));
        let word = rank.map_or("", |rank| PRECISIONS[rank]);
        (base.replace(word, ""), rank.unwrap_or(PRECISIONS.len()))
    };
    let first = split(found[0]).0;
    if found.iter().any(|name| split(name).0 != first) {
        return None;
    }
    found.into_iter().min_by_key(|name| split(name).1).map(|name| (*name).to_owned())
}

/// The models of a repository by name without shard number. Projectors and importance matrices are GGUF files, but no
/// models; a model that lacks a shard is none either.
fn models(names: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut models: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names.iter().filter(|name| name.ends_with(".gguf")) {
        let base = name.rsplit('/').next().unwrap_or(name).to_lowercase();
        if is_projector(name) || base.contains("imatrix") {
            continue;
        }
        let (stem, _) = shard(name).unwrap_or((name, 1));
        models.entry(stem.to_owned()).or_default().push((*name).to_owned());
    }
    models.retain(|_, files| {
        files.sort();
        shard(&files[0]).is_none_or(|(_, count)| files.len() == count)
    });
    models
}

/// Splits `stem-00001-of-00003.gguf` into its stem and the number of shards.
fn shard(name: &str) -> Option<(&str, usize)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some(())?;
    Some((stem, count.parse().ok()?))
}

/// Whether a file's name ends in the quantisation, or a directory above it is called so. `Q4_K` is not `Q4_K_M`.
fn is_quant(file: &str, quant: &str) -> bool {
    let stem = shard(file).map_or_else(|| file.strip_suffix(".gguf").unwrap_or(file), |(stem, _)| stem);
    let mut parts = stem.rsplit('/');
    let base = parts.next().unwrap_or(stem);
    let ends = base.len().checked_sub(quant.len()).and_then(|at| base.split_at_checked(at)).is_some_and(
        |(before, end)| {
            end.eq_ignore_ascii_case(quant) && (before.is_empty() || before.ends_with(['-', '.', '_']))
        },
    );
    ends || parts.any(|dir| dir.eq_ignore_ascii_case(quant))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: &[&str] = &[
        "README.md",
        "model-Q4_K_M.gguf",
        "model-Q4_K_S.gguf",
        "model.Q8_0.gguf",
        "mmproj-model-f16.gguf",
        "imatrix.gguf",
        "BF16/model-BF16-00002-of-00002.gguf",
        "BF16/model-BF16-00001-of-00002.gguf",
        "broken-00001-of-00003.gguf",
    ];

    fn chosen(wanted: &str) -> Vec<String> {
        choose(REPOSITORY, Some(wanted)).unwrap()
    }

    #[test]
    fn a_file_or_quantisation_that_is_named_is_taken() {
        let projector = "mmproj-model-f16.gguf";
        assert_eq!(chosen("model.Q8_0.gguf"), ["model.Q8_0.gguf", projector]);
        assert_eq!(chosen("q8_0"), ["model.Q8_0.gguf", projector]);
        assert_eq!(chosen("Q4_K_S"), ["model-Q4_K_S.gguf", projector]);
        let shards =
            ["BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf", projector];
        assert_eq!(chosen("BF16"), shards);
        assert_eq!(chosen(shards[1]), shards);
    }

    #[test]
    fn without_a_name_the_only_or_the_usual_one_is_taken() {
        assert_eq!(choose(REPOSITORY, None).unwrap(), ["model-Q4_K_M.gguf", "mmproj-model-f16.gguf"]);
        assert_eq!(choose(&["a.gguf", "mmproj.gguf"], None).unwrap(), ["a.gguf", "mmproj.gguf"]);
        assert_eq!(choose(&["mmproj.gguf"], None), Err(NoChoice::None));
    }

    #[test]
    fn a_model_comes_with_its_projector_if_it_is_clear_which_that_is() {
        for (projectors, taken) in [
            (&["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"][..], Some("mmproj-F16.gguf")),
            (&["mmproj-x-Q8_0.gguf", "mmproj-x-BF16.gguf"], Some("mmproj-x-BF16.gguf")),
            (&["x/mmproj-F32.gguf", "mmproj-F16.gguf"], Some("x/mmproj-F32.gguf")),
            (&["y/mmproj-F16.gguf"], None),
            (&["mmproj-small-F16.gguf", "mmproj-large-F16.gguf"], None),
        ] {
            assert_eq!(projector(projectors, "x/m.gguf").as_deref(), taken, "{projectors:?}");
        }
    }

    #[test]
    fn what_is_not_clear_lists_the_choices() {
        let Err(NoChoice::Ambiguous(choices)) = choose(&["a-Q8_0.gguf", "a-Q6_K.gguf"], None) else {
            panic!("it was taken")
        };
        assert_eq!(choices, ["a-Q6_K.gguf", "a-Q8_0.gguf"]);
        assert!(
            matches!(choose(REPOSITORY, Some("Q2_K")), Err(NoChoice::Ambiguous(choices)) if choices.len() == 4)
        );
        assert_eq!(choose(&["model.safetensors"], None), Err(NoChoice::None));
        assert_eq!(choose(REPOSITORY, Some("broken-00001-of-00003.gguf")).map(|_| ()), {
            Err(NoChoice::Ambiguous(choose(REPOSITORY, Some("x")).map_or_else(
                |error| match error {
                    NoChoice::Ambiguous(choices) => choices,
                    NoChoice::None => vec![],
                },
                |_| vec![],
            )))
        });
    }

    #[test]
    fn a_quantisation_is_a_whole_word() {
        assert!(!is_quant("model-Q4_K_M.gguf", "Q4_K"));
        assert!(!is_quant("modelQ8_0.gguf", "Q8_0"));
        assert!(is_quant("Q8_0.gguf", "Q8_0"));
    }
}
