//! Scripts for the other side's `/bin/sh`, and how their answers are told from noise.
//!
//! The login shell is given one constant line, which every shell in use reads the same (no `!`, no line break, no parameter):
//! it becomes `/bin/sh`, which takes exactly the script off standard input and runs it. What follows on standard input is
//! the script's. An answer is lines of `NONCE key=value`; whatever else comes, a banner, a prompt, an `echo` of somebody's
//! `.bashrc`, is passed over. The last line of an answer is `NONCE end=STATUS`. Without it there was no answer, whatever the
//! exit status says: the server may send none, and libssh2 reports that as success.

use std::io::Read;

/// What stands before every script.
const PRELUDE: &str = r#"LC_ALL=C; export LC_ALL
PATH="$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/opt/homebrew/bin"; export PATH
unset ENV BASH_ENV CDPATH
umask 077
"#;

/// A script, its parameters, and what it reads.
pub(crate) struct Script {
    texts: Vec<&'static str>,
    parameters: Vec<(&'static str, String)>,
    pub(crate) input: Input,
}

/// What a script finds on standard input.
pub(crate) enum Input {
    Nothing,
    /// A few lines. May hold a secret.
    Text(String),
    /// A file, with the bytes of it that are sent.
    File(std::fs::File, u64),
}

impl Script {
    pub(crate) fn new(text: &'static str) -> Self {
        Self { texts: vec![text], parameters: Vec::new(), input: Input::Nothing }
    }

    /// Sets a variable of the script.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.parameters.push((name, value.into()));
        self
    }

    /// Adds text that comes after.
    pub(crate) fn then(mut self, text: &'static str) -> Self {
        self.texts.push(text);
        self
    }

    pub(crate) fn reading(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// The whole script.
    pub(crate) fn render(&self, nonce: &str) -> Option<String> {
        // A start-up file that reads a line takes the first one of these, and part of the input would be run as a script.
        let mut text = format!("whole={nonce}\n{PRELUDE}[ \"$whole\" = {nonce} ] || exit 1\n");
        // Each line begins with a line feed: what stood there before, without one, is noise.
        text.push_str(&format!(
            "say() {{ printf '\\n%s %s=%s\\n' {nonce} \"$1\" \"$2\"; }}\nsay begin 0\n(\n"
        ));
        for (name, value) in &self.parameters {
            text.push_str(&format!("{name}={}\n", quote(value)?));
        }
        text.push_str(&self.texts.join("\n"));
        text.push_str("\n)\nsay end $?\nexit 0\n");
        Some(text)
    }
}

/// The line that the login shell gets for a script of so many bytes.
///
/// `dd` with blocks of one byte reads exactly as many bytes as it is told to, which neither `head` nor a shell that reads its
/// script from standard input does.
pub(crate) fn command_line(script_bytes: usize) -> String {
    format!("exec /bin/sh -c 'eval \"$(dd bs=1 count={script_bytes} 2>/dev/null)\"'")
}

/// What an answer begins with: the login shell is through with what it does by itself, and runs the script.
pub(crate) fn begins(nonce: &str) -> String {
    format!("\n{nonce} begin=")
}

/// A word of `/bin/sh` that stands for exactly this text, whatever is in it; `None` for a zero byte, which no word can hold.
#[must_use]
pub fn quote(text: &str) -> Option<String> {
    (!text.contains('\0')).then(|| format!("'{}'", text.replace('\'', r"'\''")))
}

impl Input {
    /// The bytes, with the script before them.
    pub(crate) fn after(self, script: String) -> Box<dyn Read + Send> {
        let script = std::io::Cursor::new(script);
        match self {
            Self::Nothing => Box::new(script),
            Self::Text(text) => Box::new(script.chain(std::io::Cursor::new(text))),
            Self::File(file, bytes) => Box::new(script.chain(file.take(bytes))),
        }
    }
}

/// What a script answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    lines: Vec<(String, String)>,
    /// Whether it began at all.
    pub(crate) began: bool,
    /// How it ended, if it came to its end.
    pub(crate) status: Option<i32>,
}

impl Answer {
    /// Picks an answer out of everything that was written.
    pub(crate) fn read(output: &[u8], nonce: &str) -> Self {
        let mut answer = Self::default();
        for line in String::from_utf8_lossy(output).split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let said = line.strip_prefix(nonce).and_then(|rest| rest.strip_prefix(' ')?.split_once('='));
            let Some((key, value)) = said else { continue };
            match key {
                "begin" => answer.began = true,
                "end" => answer.status = value.parse().ok(),
                _ => answer.lines.push((key.to_owned(), value.to_owned())),
            }
        }
        answer
    }

    /// The first value of a key.
    pub(crate) fn get<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.all(key).next()
    }

    /// Every value of a key.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A number, if it is one.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use proptest::prelude::*;

    use super::*;

    /// Runs a script as a login shell would, without SSH in between.
    fn run(shell: &str, script: &Script, after: &str) -> (Answer, String) {
        let text = script.render("n0nce").expect("no zero byte");
        let mut child = Command::new(shell)
            .arg("-c")
            .arg(command_line(text.len()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect(shell);
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(format!("{text}{after}").as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        (Answer::read(&output.stdout, "n0nce"), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn echoes(value: &str) -> Script {
        Script::new("say got \"$value\"; cat >/dev/null").with("value", value)
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "`cargo xtask test` shows figures that tests print")]
    fn every_hostile_parameter_arrives_as_itself_and_runs_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let canary = dir.path().join("canary");
        let touch = format!("touch {}", canary.display());
        let wrappings = [
            "{}",
            "; {}",
            "& {}",
            "&& {}",
            "|| {}",
            "| {}",
            "$({})",
            "`{}`",
            "\n{}\n",
            "' ; {} ; '",
            "'\n{}\n'",
            "\" ; {} ; \"",
            "'$({})'",
            "\\'; {}",
            "'\\''; {}; '",
            "${IFS}{}",
            "#\n{}",
            "<({})",
            ">({})",
            "\r{}",
            "\u{2028}{}",
            "!{}",
            "\\\n{}",
            "EOF\n{}",
            ")\n{}\n(",
            "}; {}; {",
            "' || {} #",
            "value=$({})",
            "*; {}",
            "\u{ff07}; {} \u{ff07}",
        ];
        let prefixes = ["", "-", "--", "box", "../", "/tmp/x ", "ä"];
        let mut tried = 0;
        for prefix in prefixes {
            for wrapping in wrappings {
                let value = format!("{prefix}{}", wrapping.replace("{}", &touch));
                let (answer, output) = run("sh", &echoes(&value.replace('\n', "\\n")), "");
                assert_eq!(answer.status, Some(0), "{value:?}: {output}");
                // With line breaks it arrives too, as several lines.
                let (_, with_breaks) = run("sh", &echoes(&value), "");
                assert!(with_breaks.contains(&value), "{value:?} became {with_breaks:?}");
                assert!(!canary.exists(), "{value:?} was run");
                tried += 1;
            }
        }
        assert!(tried >= 100, "{tried}");
        println!("figure: 0 of {tried} hostile parameters of a script were run, each arrived as itself");
        assert_eq!(quote("a\0b"), None);
    }

    #[test]
    fn a_script_takes_exactly_itself_off_the_input() {
        for shell in ["sh", "bash", "dash"] {
            let (answer, output) = run(shell, &Script::new("say rest \"$(cat)\""), "first line\nexit 3\n");
            assert_eq!(answer.get("rest"), Some("first line"), "{shell}: {output}");
            assert_eq!(answer.status, Some(0));
        }
    }

    #[test]
    fn noise_is_no_answer_and_half_an_answer_is_none() {
        let noise = "Welcome!\nn0nce\nother pid=7\nLast login n0nce pid=8\n\r\nn0nce begin=0\nn0nce pid=9\r\nxn0nce end=0\n";
        let answer = Answer::read(noise.as_bytes(), "n0nce");
        assert_eq!((answer.began, answer.status, answer.number("pid")), (true, None, Some(9)));
        assert_eq!(Answer::read(b"n0nce end=3\n", "n0nce").status, Some(3));
        let (answer, _) = run("sh", &Script::new("exit 7"), "");
        assert_eq!(answer.status, Some(7));
    }

    proptest! {
        #[test]
        fn a_quoted_word_is_one_word(text in "[^\0]{0,40}") {
            let quoted = quote(&text).expect("no zero byte");
            let printed = Command::new("sh").arg("-c").arg(format!("printf %s {quoted}")).output().expect("sh");
            prop_assert_eq!(String::from_utf8_lossy(&printed.stdout), text);
        }
    }
}
