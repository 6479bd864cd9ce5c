//! What is written, when, and how seldom.

use std::time::Duration;

use registry_ram::WorkerRegistry;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn id() -> HiveId {
    "box".parse().unwrap()
}

/// What is written while the hive is in `phase(second)` in each second of so many, and in which.
fn writes(rows: &mut Rows, seconds: u32, phase: impl Fn(u32) -> HivePhase) -> Vec<(u32, HivePhase)> {
    let registry = Arc::new(WorkerRegistry::default());
    let writer = registry.writer(id());
    let (start, settings) = (Instant::now(), Settings::default());
    let mut writes = Vec::new();
    for second in 0..seconds {
        writer.phase(phase(second), None);
        let (due, next) = rows.due(&registry.view(), &settings, start + SECOND * second, |_| false);
        assert!(next > start + SECOND * second);
        writes.extend(due.into_iter().map(|(_, phase)| (second, phase)));
    }
    writes
}

fn read(status: HiveStatus) -> Rows {
    let mut rows = Rows::default();
    rows.read(id(), status);
    rows
}

#[test]
fn a_hive_that_comes_and_goes_is_written_at_most_once_in_ten_seconds() {
    let phases = [HivePhase::Online, HivePhase::Unreachable];
    let writes = writes(&mut Rows::default(), 300, |second| phases[second as usize % 2]);
    assert!(writes.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 10), "{writes:?}");
    assert!(writes.len() >= 20, "and is written: {writes:?}");
}

#[test]
fn a_hive_that_just_lives_is_written_once_a_minute() {
    let writes = writes(&mut read(HiveStatus::Online), 181, |_| HivePhase::Online);
    assert_eq!(writes.iter().map(|(second, _)| *second).collect::<Vec<_>>(), [0, 60, 120, 180]);
}

#[test]
fn what_the_row_says_already_and_what_passes_is_not_written() {
    assert_eq!(writes(&mut read(HiveStatus::Error), 100, |_| HivePhase::Unreachable), []);
    assert_eq!(writes(&mut read(HiveStatus::Online), 100, |_| HivePhase::Starting), []);
    let then = |second| if second < 5 { HivePhase::Stopping } else { HivePhase::Offline };
    assert_eq!(writes(&mut read(HiveStatus::Online), 100, then), [(5, HivePhase::Offline)]);
}

#[test]
fn the_last_word_is_written_though_it_came_too_soon() {
    let then = |second| if second < 3 { HivePhase::Online } else { HivePhase::Error };
    let writes = writes(&mut Rows::default(), 30, then);
    assert_eq!(writes, [(0, HivePhase::Online), (10, HivePhase::Error)]);
}

#[test]
fn a_silence_that_is_the_queens_own_fault_is_written_once_it_is_not() {
    let registry = Arc::new(WorkerRegistry::default());
    registry.writer(id()).phase(HivePhase::Unreachable, None);
    let (mut rows, settings, now) = (read(HiveStatus::Online), Settings::default(), Instant::now());
    let (due, next) = rows.due(&registry.view(), &settings, now, |_| true);
    assert!(due.is_empty() && next <= now + SECOND * 10);
    let (due, _) = rows.due(&registry.view(), &settings, next, |_| false);
    assert_eq!(due, [(id(), HivePhase::Unreachable)]);
}
