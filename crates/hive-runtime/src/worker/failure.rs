//! What kind of failure an engine's last words tell of.

use fleet::FailureCode;
use process::Exit;

/// Lines of a failed worker's log that its record carries.
pub(crate) const TAIL_LINES: usize = 20;

const OUT_OF_MEMORY: &[&str] = &[
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "outofdevicememory",
    "cannot allocate memory",
    "failed to allocate",
    "unable to allocate",
    "bad_alloc",
    "no available memory for the cache blocks",
];

const UNREADABLE: &[&str] = &["no such file or directory", "failed to open gguf", "permission denied"];

const INVALID: &[&str] = &[
    "invalid magic",
    "not a gguf",
    "unknown model architecture",
    "unsupported model",
    "unsupported architecture",
    "error loading model",
    "failed to load model",
    "missing tensor",
    "tensor not found",
];

/// Why an engine ended before it was ready. Engines have no common exit codes, so their words decide; memory comes first,
/// since an engine that lacks it usually goes on to say that it could not load the model.
pub(crate) fn while_loading(exit: Exit, log_tail: &[String], oom_kills: u64) -> FailureCode {
    let says = |words: &[&str]| {
        log_tail.iter().any(|line| {
            let line = line.to_lowercase();
            words.iter().any(|word| line.contains(word))
        })
    };
    if says(OUT_OF_MEMORY) || (exit.signal == Some(9) && oom_kills > 0) {
        FailureCode::OutOfMemory
    } else if says(UNREADABLE) {
        FailureCode::ModelUnreadable
    } else if says(INVALID) {
        FailureCode::ModelInvalid
    } else {
        FailureCode::ExitedWhileLoading
    }
}

/// How many processes this machine has killed for want of memory since it booted; 0 where it does not tell.
pub(crate) fn oom_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_last_words_tell_the_kind_of_failure() {
        let exit = Exit { code: Some(1), signal: None };
        for (line, code) in [
            (
                "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory",
                FailureCode::OutOfMemory,
            ),
            (
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
                FailureCode::OutOfMemory,
            ),
            (
                "gguf_init_from_file_impl: invalid magic characters: 'abcd', expected 'GGUF'",
                FailureCode::ModelInvalid,
            ),
            (
                "llama_model_load: error loading model: unknown model architecture: 'x'",
                FailureCode::ModelInvalid,
            ),
            ("open: No such file or directory", FailureCode::ModelUnreadable),
            ("bye", FailureCode::ExitedWhileLoading),
        ] {
            assert_eq!(while_loading(exit, &[line.to_owned()], 0), code, "{line}");
        }
        let killed = Exit { code: None, signal: Some(9) };
        assert_eq!(while_loading(killed, &[], 1), FailureCode::OutOfMemory);
        assert_eq!(while_loading(killed, &[], 0), FailureCode::ExitedWhileLoading);
    }
}
