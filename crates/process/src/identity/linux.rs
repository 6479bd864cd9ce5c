//! `/proc`, as described in proc_pid_stat(5).

use std::{fs, io, sync::OnceLock};

use fleet::ProcessIdentity;

use super::Stat;

pub(super) fn boot_id() -> io::Result<String> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id.clone());
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(BOOT_ID.get_or_init(|| id).clone())
}

pub(super) fn stat(pid: u32) -> io::Result<Option<Stat>> {
    match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => parse(&text).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        // A process that ends while its file is being read gives ESRCH, which has no kind of its own.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fields are counted from behind the last parenthesis: the name within may hold spaces and parentheses itself.
fn parse(text: &[u8]) -> Option<Stat> {
    let end_of_name = text.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(text.get(end_of_name + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The first field here is number 3 of the manual page.
    let field = |number: usize| fields.get(number - 3).copied();
    // The first thread of a process is a zombie as soon as it ends, although the others may still run and hold files and
    // locks. Only with none of them left has the process ended.
    let threads: u64 = field(20)?.parse().ok()?;
    Some(Stat {
        zombie: matches!(field(3)?, "Z" | "X" | "x") && threads <= 1,
        group: field(5)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
    })
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The living members of a process group.
pub(crate) fn group_members(group: u32) -> Vec<u32> {
    pids()
        .filter(|&pid| stat(pid).ok().flatten().is_some_and(|stat| stat.group == group && !stat.zombie))
        .collect()
}

/// Processes that lead a group of their own and carry `name=value` in their environment: those that were started with it
/// and whose identity could not be written down in time.
#[must_use]
pub fn find_marked(name: &str, value: &str) -> Vec<ProcessIdentity> {
    let mark = format!("{name}={value}").into_bytes();
    let is_marked = |pid: u32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environment| environment.split(|&b| b == 0).any(|variable| variable == mark))
    };
    pids()
        .filter(|&pid| stat(pid).ok().flatten().is_some_and(|stat| stat.group == pid && !stat.zombie))
        .filter(|&pid| is_marked(pid))
        .filter_map(|pid| super::of(pid).ok().flatten())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let text = b"42 (a) S 1 (b)) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1000 1 18446744073709551615";
        assert_eq!(parse(text), Some(Stat { zombie: false, group: 7, start_time: 12345 }));
        let zombie = b"42 (sh) Z 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 9 0 0 18446744073709551615";
        assert_eq!(parse(zombie), Some(Stat { zombie: true, group: 42, start_time: 9 }));
    }

    #[test]
    fn a_process_whose_first_thread_ended_before_the_others_still_lives() {
        let text = b"42 (sh) Z 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 9 0 0 18446744073709551615";
        assert!(!parse(text).expect("well formed").zombie);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }
    }
}
