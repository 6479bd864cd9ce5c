//! The queue of lines and the thread that writes them.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait. At 200 bytes each they are less than a megabyte.
const CAPACITY: usize = 4096;

/// How long the end of the program waits for the lines that are still in the queue.
const FLUSH: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The sending end: takes lines without ever waiting.
#[derive(Clone)]
pub(crate) struct Output {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Output {
    /// Starts the thread that writes to `target`.
    pub(crate) fn start(target: impl Write + Send + 'static) -> io::Result<Self> {
        Self::with_capacity(CAPACITY, target)
    }

    fn with_capacity(capacity: usize, target: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, messages) = sync_channel(capacity);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        thread::Builder::new().name("log".to_owned()).spawn(move || write(&messages, target, &counter))?;
        Ok(Self { queue, lost })
    }

    /// How many lines were dropped so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn send(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was sent is written, for a second at most. The thread may hang in a write to a pipe that nobody
    /// reads, and nothing can wake it there; it ends with the program.
    pub(crate) fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _in_time = written.recv_timeout(FLUSH);
        }
    }
}

fn write(messages: &Receiver<Message>, mut target: impl Write, lost: &AtomicU64) {
    let mut reported = 0;
    for message in messages {
        match message {
            Message::Line(line) => {
                if target.write_all(&line).is_err() {
                    // Not worth a report of its own, which would be lost the same way.
                    reported += 1;
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => {
                let _closed = target.flush();
                let _left = done.try_send(());
            }
        }
        let total = lost.load(Ordering::Relaxed);
        if total > reported {
            tracing::warn!(lines = total - reported, "log lines dropped");
            reported = total;
        }
    }
}

/// One line on its way into the queue. `tracing-subscriber` writes each in one piece.
pub(crate) struct Line<'a>(&'a Output);

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(printable(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self)
    }
}

/// The line with its control characters spelled out, but for the line break at its end. What a peer sent may hold escape
/// sequences of a terminal, or line breaks that would forge a line of their own.
fn printable(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
    if !line.contains(char::is_control) {
        return bytes.to_vec();
    }
    let mut safe = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if c.is_control() { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    safe.push_str(end);
    safe.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError, mpsc};

    use super::*;

    /// Collects what is written.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Paper {
        fn text(&self) -> String {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8(bytes.clone()).expect("text")
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Lets no write pass until it is told to.
    struct Gate(mpsc::Receiver<()>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _opened = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(output: &Output, line: &str) {
        output.make_writer().write_all(line.as_bytes()).expect("a line is always taken");
    }

    #[test]
    fn lines_are_written_in_order_before_a_flush_returns() {
        let paper = Paper::default();
        let output = Output::start(paper.clone()).expect("a thread");
        (0..100).for_each(|n| log(&output, &format!("{n}\n")));
        output.flush();
        assert_eq!(paper.text(), (0..100).map(|n| format!("{n}\n")).collect::<String>());
        assert_eq!(output.lost(), 0);
    }

    #[test]
    fn a_reader_that_stopped_costs_lines_and_no_time() {
        let (open, gate) = mpsc::channel();
        let output = Output::with_capacity(10, Gate(gate)).expect("a thread");
        (0..1000).for_each(|_| log(&output, "line\n"));
        // One line is in the hands of the thread, ten wait.
        assert!((989..=990).contains(&output.lost()), "{}", output.lost());
        output.flush();
        drop(open);
    }

    #[test]
    fn a_closed_output_is_counted_and_survived() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }

            fn flush(&mut self) -> io::Result<()> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
        }
        let output = Output::start(Closed).expect("a thread");
        (0..5).for_each(|_| log(&output, "line\n"));
        output.flush();
        assert_eq!(output.lost(), 5);
    }

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(printable(b"plain \xc3\xa4\n"), b"plain \xc3\xa4\n");
        assert_eq!(printable(b"a\x1b[31mred\r\nforged\n"), b"a\\u{1b}[31mred\\r\\nforged\n");
        assert_eq!(printable("c1 \u{9b}31m\n".as_bytes()), b"c1 \\u{9b}31m\n");
    }
}
