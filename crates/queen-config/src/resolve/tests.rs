use std::{collections::BTreeSet, path::PathBuf};

use fleet::{EngineOrigin, HiveMode, HiveSource, StartPolicy};

use super::*;
use crate::{
    Fault,
    keys::{ENGINE_KEYS, HIVE_KEYS, MODEL_KEYS},
};

/// A machine with a home directory, some variables and, below `.config`, a configuration file.
struct Machine {
    home: tempfile::TempDir,
    surroundings: Surroundings,
}

impl Machine {
    fn new(file: Option<&str>) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let mut surroundings = Surroundings::default();
        surroundings.variables.insert("HOME".to_owned(), home.path().display().to_string());
        let machine = Self { home, surroundings };
        if let Some(text) = file {
            fs::create_dir_all(machine.file().parent().expect("it has one")).expect("made");
            fs::write(machine.file(), text).expect("written");
        }
        machine
    }

    fn file(&self) -> PathBuf {
        self.home.path().join(".config/queen-rbee/queen.toml")
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.surroundings.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    fn load(&self) -> Result<Config, Faults> {
        load_from(&Flags::default(), &self.surroundings)
    }

    /// The faults, without the name of the machine's directory.
    fn faults(&self) -> String {
        let faults = self.load().expect_err("it has faults").to_string();
        faults
            .replace(&self.file().display().to_string(), "queen.toml")
            .replace(&self.home.path().display().to_string(), "HOME")
    }
}

fn load(file: &str) -> Config {
    Machine::new(Some(file)).load().unwrap_or_else(|faults| unreachable!("{faults}"))
}

/// Id, hostname, port and mode of each hive.
fn hives(config: &Config) -> Vec<(String, String, u16, HiveMode)> {
    let short =
        |spec: &fleet::HiveSpec| (spec.id.to_string(), spec.hostname.to_string(), spec.port, spec.mode);
    config.hives.iter().map(short).collect()
}

fn hive(id: &str, hostname: &str, port: u16, mode: HiveMode) -> (String, String, u16, HiveMode) {
    (id.to_owned(), hostname.to_owned(), port, mode)
}

#[test]
fn without_any_configuration_everything_has_its_default() {
    let machine = Machine::new(None);
    let config = machine.load().expect("no faults");
    let text = format!("{config:#?}").replace(&machine.home.path().display().to_string(), "HOME");
    insta::assert_snapshot!(text);
}

#[test]
fn every_key_is_read_and_every_read_key_is_in_the_table() {
    let machine = Machine::new(Some(
        "[[hive]]\nhostname = \"box\"\n[[model]]\nref = \"a/b\"\n[[engine]]\nname = \"x\"",
    ));
    let layers = Layers::read(&Flags::default(), &machine.surroundings).expect("no faults");
    let mut reader = Reader::new(layers);
    resolve(&mut reader, &machine.surroundings).expect("a configuration");
    let known: BTreeSet<&str> =
        [KEYS, HIVE_KEYS, MODEL_KEYS, ENGINE_KEYS].into_iter().flatten().map(|key| key.name).collect();
    // A hostname that is given is not looked for elsewhere.
    assert_eq!(reader.read, known);
}

#[test]
fn both_documented_forms_of_hives_are_read() {
    let local = load("[[hive]]\nmode = \"local\"\nport = 8080\n");
    assert_eq!(hives(&local), [hive("local", "localhost", 8080, HiveMode::Local)]);
    assert!(!local.implicit_local);

    let network = load(
        "[[hive]]\nmode = \"network\"\nhostname = \"192.168.1.100\"\nport = 8080\n\
         ssh_key = \"/home/user/.ssh/id_rsa\"\n",
    );
    assert_eq!(hives(&network), [hive("192.168.1.100", "192.168.1.100", 8080, HiveMode::Network)]);
    assert_eq!(network.hives[0].ssh.key_path, Some("/home/user/.ssh/id_rsa".into()));
    assert_eq!(network.hives[0].source, HiveSource::Config);

    let both = load(
        "[[hive]]\nmode = \"local\"\nport = 8080\n\n[[hive]]\nmode = \"network\"\n\
         hostname = \"192.168.1.100\"\nport = 8080\nssh_key = \"/home/user/.ssh/id_rsa\"\n",
    );
    assert_eq!(both.hives.len(), 2);

    let named = load(
        "[hive.local]\nmode = \"local\"  # Force local even if hostname is IP\n\n\
         [hive.remote]\nmode = \"network\"  # Force network even if hostname is localhost\n",
    );
    assert_eq!(
        hives(&named),
        [
            hive("local", "localhost", 7835, HiveMode::Local),
            hive("remote", "remote", 7835, HiveMode::Network)
        ]
    );
}

#[test]
fn an_explicit_mode_wins_both_ways_and_a_missing_one_is_detected() {
    let config = load(
        "[hive.here]\nmode = \"local\"\nhostname = \"10.0.0.5\"\nport = 1001\n\
         [hive.loop]\nmode = \"network\"\nhostname = \"localhost\"\nport = 1002\n\
         [hive.v6]\nhostname = \"::1\"\nport = 1003\n\
         [hive.far]\nhostname = \"box.lan\"\n[hive.near]\nport = 1004\n",
    );
    assert_eq!(
        hives(&config),
        [
            hive("far", "box.lan", 7835, HiveMode::Network),
            hive("here", "10.0.0.5", 1001, HiveMode::Local),
            hive("loop", "localhost", 1002, HiveMode::Network),
            hive("near", "localhost", 1004, HiveMode::Local),
            hive("v6", "::1", 1003, HiveMode::Local),
        ]
    );
}

#[test]
fn a_hive_may_say_everything() {
    let machine = Machine::new(Some(
        "[[hive]]\nid = \"rack-1\"\nhostname = \"box\"\nport = 9000\nmode = \"network\"\nssh_key = \"~/.ssh/rack\"\n\
         ssh_user = \"rbee\"\nssh_port = 2222\n\
         host_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGq0000000000000000000000000000000000000000 me@box\"\n\
         region = \"cellar\"\nlabels = [\"gpu\", \"loud\"]\nstart = \"on_demand\"\n",
    ));
    let spec = machine.load().expect("no faults").hives.remove(0);
    assert_eq!((spec.id.as_str(), spec.port), ("rack-1", 9000));
    assert_eq!(spec.ssh.key_path, Some(machine.home.path().join(".ssh/rack")));
    assert_eq!((spec.ssh.user.as_deref(), spec.ssh.port), (Some("rbee"), Some(2222)));
    assert!(spec.ssh.host_key.is_some_and(|key| key.starts_with("ssh-ed25519 AAAA") && !key.contains("me@")));
    assert_eq!((spec.region.as_deref(), spec.labels.len()), (Some("cellar"), 2));
    assert_eq!(spec.start, StartPolicy::OnDemand);
}

const ENGINES: &str = "[[engine]]\nos = \"linux\"\narch = \"x86_64\"\nbackend = \"vulkan\"\n\
    url = \"https://example.org/llama.tar.gz\"\n\
    sha256 = \"E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855\"\n\
    [[engine]]\nname = \"mine\"\nos = \"macos\"\narch = \"aarch64\"\nbackend = \"metal\"\npath = \"~/engines/mine\"\n";

#[test]
fn engines_are_read_in_the_order_of_the_file() {
    let machine = Machine::new(Some(ENGINES));
    let engines = machine.load().expect("no faults").engines;
    let shown: Vec<_> = engines.iter().map(|engine| format!("{} {}", engine.name, engine.target)).collect();
    assert_eq!(shown, ["llama-server linux-x86_64", "mine macos-aarch64"]);
    let EngineOrigin::Url { url, sha256 } = &engines[0].origin else { unreachable!("{engines:?}") };
    assert_eq!(url.as_str(), "https://example.org/llama.tar.gz");
    assert!(sha256.to_string().starts_with("e3b0c442"));
    let path = machine.home.path().join("engines/mine");
    assert_eq!(engines[1].origin, EngineOrigin::Path { path, sha256: None });
}

#[test]
fn all_that_is_wrong_with_an_engine_is_said_at_once() {
    let faults = Machine::new(Some(
        "[[engine]]\nname = \"a/b\"\nos = \"windows\"\nbackend = \"gpu\"\nurl = \"http://example.org/x?key=secret\"\n\
         [[engine]]\nos = \"linux\"\narch = \"x86_64\"\nbackend = \"cpu\"\npath = \"bin/x\"\nurl = \"https://a/x.zip\"\n\
         sha256 = \"12\"\nurll = 1\n[[engine]]\nos = \"linux\"\narch = \"aarch64\"\nbackend = \"cpu\"\n",
    ))
    .faults();
    assert!(!faults.contains("secret"), "{faults}");
    insta::assert_snapshot!(faults);
    let twice = format!(
        "{ENGINES}[[engine]]\nos = \"macos\"\narch = \"aarch64\"\nbackend = \"metal\"\nname = \"mine\"\npath = \"/x\"\n"
    );
    insta::assert_snapshot!(Machine::new(Some(&twice)).faults());
    insta::assert_snapshot!(Machine::new(Some("[engine.box]\nos = \"linux\"\n")).faults());
}

#[test]
fn no_hive_is_one_implicit_local_one_and_an_empty_list_is_none() {
    let config = load("[log]\nformat = \"json\"\n");
    assert!(config.implicit_local);
    assert_eq!(hives(&config), [hive("local", "localhost", 7835, HiveMode::Local)]);
    let config = load("hive = []\n");
    assert!(!config.implicit_local && config.hives.is_empty());
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let machine =
        Machine::new(Some("listen = \"127.0.0.1:1\"\n[log]\nfilter = \"warn\"\nformat = \"json\"\n"))
            .set("QUEEN_RBEE_LISTEN", "127.0.0.1:2")
            .set("QUEEN_RBEE_LOG__FILTER", "debug")
            .set("QUEEN_RBEE_TIMEOUTS__CONNECT", "500ms")
            .set("QUEEN_RBEE_QUEUE__LENGTH", "7")
            .set("QUEEN_RBEE_MODELS__ALLOW", "[\"a/*\", \"b/c\"]")
            .set("QUEEN_RBEE_HIVE__BOX__HOSTNAME", "10.0.0.9");
    let flags = Flags {
        listen: Some("127.0.0.1:3".to_owned()),
        data_dir: Some("relative".into()),
        ..Flags::default()
    };
    let config = load_from(&flags, &machine.surroundings).expect("no faults");
    assert_eq!(config.listen, "127.0.0.1:3".parse().expect("an address"));
    assert_eq!(config.log, Log { filter: "debug".to_owned(), format: LogFormat::Json });
    assert_eq!((config.timeouts.connect, config.queue.length), (Duration::from_millis(500), 7));
    assert_eq!(config.models.allows(&"a/x".parse().expect("a model")), Some(true));
    assert_eq!(config.models.allows(&"b/x".parse().expect("a model")), Some(false));
    assert_eq!(hives(&config), [hive("box", "10.0.0.9", 7835, HiveMode::Network)]);
    let here = std::env::current_dir().expect("there is one");
    assert_eq!(config.data_dir, here.join("relative"), "a flag means the current directory");
}

#[test]
fn localhost_is_an_address() {
    let config = load("listen = \"localhost:7000\"\n");
    assert_eq!(config.listen, "127.0.0.1:7000".parse().expect("an address"));
}

#[test]
fn a_wrong_value_that_another_source_replaces_is_no_fault() {
    let machine = Machine::new(Some("listen = \"junk\"\n")).set("QUEEN_RBEE_LISTEN", "127.0.0.1:2");
    machine.load().expect("no faults");
}

#[test]
fn the_named_file_is_read_instead_of_the_usual_one() {
    let machine = Machine::new(Some("listen = \"junk\"\n"));
    let other = machine.home.path().join("other.toml");
    fs::write(&other, "listen = \"127.0.0.1:9\"\n").expect("written");
    let flags = Flags { config: Some(other), ..Flags::default() };
    let config = load_from(&flags, &machine.surroundings).expect("no faults");
    assert_eq!(config.listen.port(), 9);
    let flags = Flags { config: Some("/nowhere/queen.toml".into()), ..Flags::default() };
    let faults = load_from(&flags, &machine.surroundings).expect_err("it is not there");
    assert!(faults.to_string().starts_with("/nowhere/queen.toml: cannot be read: No such file"), "{faults}");
}

#[test]
fn directories_follow_the_xdg_variables() {
    let machine = Machine::new(None).set("XDG_DATA_HOME", "/data").set("XDG_CONFIG_HOME", "relative/ignored");
    assert_eq!(machine.load().expect("no faults").data_dir, PathBuf::from("/data/queen-rbee"));
    let nowhere = load_from(&Flags::default(), &Surroundings::default()).expect_err("no home");
    assert_eq!(nowhere.as_slice()[0].key, "data_dir");
}

const SECRET: &str = "canary-0123456789abcdef";

#[test]
fn a_token_comes_from_the_variable_or_a_file_and_opens_the_queen() {
    let machine = Machine::new(Some("listen = \"0.0.0.0:7833\"\n")).set("QUEEN_RBEE_TOKEN", SECRET);
    let config = machine.load().expect("no faults");
    assert_eq!(config.token.as_ref().map(Token::reveal), Some(SECRET));
    assert!(!format!("{config:?} {:?}", machine.surroundings).contains(SECRET));

    for key in ["token_file = \"~/token\"", "[auth]\ntoken_file = \"~/token\""] {
        let machine = Machine::new(Some(&format!("listen = \"0.0.0.0:7833\"\n{key}\n")));
        fs::write(machine.home.path().join("token"), format!("{SECRET}\n")).expect("written");
        assert_eq!(machine.load().expect("no faults").token.as_ref().map(Token::reveal), Some(SECRET));
    }

    let digits = Machine::new(None).set("QUEEN_RBEE_TOKEN", "12345678901234567890");
    assert_eq!(
        digits.load().expect("no faults").token.as_ref().map(Token::reveal),
        Some("12345678901234567890")
    );
}

#[test]
fn no_fault_repeats_a_secret() {
    let short = "canary";
    let cases = [
        Machine::new(Some(&format!("token = \"{SECRET}\"\n"))),
        Machine::new(Some(&format!("[auth]\ntoken = \"{SECRET}\"\n"))),
        Machine::new(Some(&format!("token_file = \"{SECRET}\"\n"))),
        Machine::new(Some(&format!("auth = \"{SECRET}\"\n"))),
        Machine::new(Some(&format!("api_token = \"{SECRET}\"\n"))),
        Machine::new(Some(&format!("token_file = \"{SECRET}\n"))),
        Machine::new(Some("")).set("QUEEN_RBEE_TOKEN", short),
        Machine::new(Some("")).set("QUEEN_RBEE_TOKENS", SECRET),
    ];
    for machine in cases {
        let faults = machine.faults();
        assert!(!faults.contains(short), "{faults}");
    }
    let machine = Machine::new(Some("token_file = \"~/token\"\n"));
    fs::write(machine.home.path().join("token"), "canary with spaces in it").expect("written");
    assert!(!machine.faults().contains("canary"));
}

#[test]
fn all_faults_are_reported_at_once_with_their_places() {
    let machine = Machine::new(Some(
        "listen = \"everywhere\"\ndata_dir = \"data\"\n\n[timeouts]\nconnect = \"soon\"\nconect = 3\n\n\
         [[hive]]\nport = 70000\nmode = \"remote\"\n",
    ))
    .set("QUEEN_RBEE_LOG__FORMAT", "xml");
    insta::assert_snapshot!(machine.faults());
    let origins: Vec<Fault> = machine.load().expect_err("faults").as_slice().to_vec();
    assert_eq!(origins.len(), 7);
}

/// Files with something wrong in each.
const BAD: &[&str] = &[
    // Not TOML.
    "listen =\n",
    "listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n",
    "[timeouts\n",
    "key = \u{1}\n",
    // Unknown keys.
    "listn = \"127.0.0.1:1\"\n",
    "kubernetes = true\n",
    "[timeout]\nconnect = 3\n",
    "[timeouts]\nconnekt = 3\n",
    "[server]\nport = 7833\n",
    "[[hive]]\nhost = \"box\"\n",
    "[hive.box]\nssh_keys = \"/k\"\n",
    // Wrong types.
    "listen = 7833\n",
    "timeouts = 5\n",
    "[timeouts]\nconnect = true\n",
    "[queue]\nlength = \"many\"\n",
    "[models]\nallow = \"a/*\"\n",
    "[models]\nallow = [1]\n",
    "[models]\naliases = [\"a\"]\n",
    "[log]\nfilter = 3\n",
    "log = [\"info\"]\n",
    // Wrong values.
    "listen = \"localhost\"\n",
    "listen = \"127.0.0.1\"\n",
    "listen = \"127.0.0.1:99999\"\n",
    "listen = \"\"\n",
    "[timeouts]\nconnect = \"30 bananas\"\n",
    "[timeouts]\nconnect = -1\n",
    "[timeouts]\nconnect = 0\n",
    "[timeouts]\nconnect = 1.5\n",
    "[timeouts]\ndrain = \"2 years\"\n",
    "[timeouts]\nsuspect = \"1s\"\n",
    "[queue]\nlength = 0\n",
    "[limits]\nbody = \"32MB\"\n",
    "[limits]\nheader = 100\n",
    "[log]\nformat = \"xml\"\n",
    "[log]\nfilter = \"router=loud\"\n",
    "[models]\nhub_url = \"ftp://hub\"\n",
    "[models]\nhub_url = \"https://me:pw@hub\"\n",
    "[models.aliases]\nsmall = \"../etc\"\n",
    "[models.aliases]\n\"two words\" = \"a/b\"\n",
    // Paths.
    "data_dir = \"data\"\n",
    "hive_binary = \"./rbee-hive\"\n",
    "token_file = \"token\"\n",
    "token_file = \"/nowhere/token\"\n",
    "token_file = \"/a\"\n[auth]\ntoken_file = \"/b\"\n",
    "hive_binary = \"rbee-hive\"\n",
    "[[hive]]\nhostname = \"box\"\nssh_key = \"id_rsa\"\n",
    // Access.
    "listen = \"0.0.0.0:7833\"\n",
    "listen = \"[::]:7833\"\n",
    "token = \"0123456789abcdef\"\n",
    // Hives.
    "hive = 3\n",
    "hive = [3]\n",
    "[hive]\nmode = \"local\"\nport = 8080\n",
    "[hive]\nport = 8080\n[hive.a]\nport = 1\n",
    "[[hive]]\nmode = \"local\"\n[hive.remote]\nmode = \"network\"\n",
    "[hive.local]\nmode = \"local\"\n[[hive]]\nmode = \"network\"\n",
    "[[hive]]\nmode = \"network\"\n",
    "[[hive]]\nmode = \"remote\"\n",
    "[[hive]]\nhostname = \"user@box\"\n",
    "[[hive]]\nhostname = \"-oProxyCommand=id\"\n",
    "[[hive]]\nhostname = \"a;id\"\n",
    "[[hive]]\nhostname = \"fe80::1\"\n",
    "[[hive]]\nid = \"a b\"\nhostname = \"box\"\n",
    "[hive.\"a b\"]\nhostname = \"box\"\n",
    "[[hive]]\nport = 0\n",
    "[[hive]]\nport = 65536\n",
    "[[hive]]\nport = \"8080\"\n",
    "[[hive]]\nhostname = \"box\"\nssh_user = \"-l root\"\n",
    "[[hive]]\nhostname = \"box\"\nhost_key = \"AAAA\"\n",
    "[[hive]]\nlabels = \"gpu\"\n",
    "[[hive]]\nstart = \"lazily\"\n",
    "[[hive]]\nport = 1\n[[hive]]\nport = 2\n",
    "[[hive]]\nid = \"a\"\n[[hive]]\nid = \"b\"\n",
    "[[hive]]\nid = \"a\"\nhostname = \"Box.\"\n[[hive]]\nid = \"b\"\nhostname = \"box\"\n",
    "[hive.a]\nid = \"b\"\nport = 1\n[hive.b]\nport = 2\n",
    "[hive.a]\nhostname = \"localhost\"\nmode = \"network\"\n[hive.b]\n",
    "[[hive]]\nport = 7833\n",
    // Models.
    "model = \"a/b\"\n",
    "[model]\nref = \"a/b\"\n",
    "[[model]]\npinned = true\n",
    "[[model]]\nref = \"small\"\n",
    "[[model]]\nref = \"a/b\"\npin = true\n",
    "[[model]]\nref = \"a/b\"\npinned = 3\n",
    "[[model]]\nref = \"a/b\"\nslots = 0\n",
    "[[model]]\nref = \"a/b\"\nreplicas_min = 3\nreplicas_max = 2\n",
    "[[model]]\nref = \"a/b\"\n[[model]]\nref = \"hf:a/b\"\n",
];

#[test]
fn each_bad_file_says_what_is_wrong_and_what_to_write() {
    let mut text = String::new();
    for file in BAD {
        let faults = Machine::new(Some(file)).faults();
        text.push_str(&format!("{file}--> {}\n\n", faults.replace('\n', "\n--> ")));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn bad_variables_and_flags_are_named() {
    let cases = [
        ("QUEEN_RBEE_LISTEN", "here"),
        ("QUEEN_RBEE_LISTN", "127.0.0.1:1"),
        ("QUEEN_RBEE_TIMEOUTS__CONNECT", "x"),
        ("QUEEN_RBEE_TOKEN", ""),
        ("QUEEN_RBEE_HIVE__BOX__PORT", "0"),
    ];
    let mut text = String::new();
    for (name, value) in cases {
        text.push_str(&format!("{}\n", Machine::new(None).set(name, value).faults()));
    }
    let mixed = Machine::new(Some("[[hive]]\nport = 1\n")).set("QUEEN_RBEE_HIVE__BOX__PORT", "2");
    text.push_str(&format!("{}\n", mixed.faults()));
    let flags =
        Flags { listen: Some("here".to_owned()), log_format: Some("xml".to_owned()), ..Flags::default() };
    let faults = load_from(&flags, &Machine::new(None).surroundings).expect_err("bad flags");
    text.push_str(&faults.to_string());
    insta::assert_snapshot!(text);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 200, ..Default::default() })]

    #[test]
    fn no_file_makes_the_reader_panic(
        lines in proptest::collection::vec(
            "(listen|timeouts|hive|hive\\.a|models\\.aliases|\\[\\[hive\\]\\]|\\[hive\\.b\\]|\\[log\\]|\\[hive\\]|port|x) ?(= ?(1|-1|\"a\"|\\[\\]|\\{\\}|\\[\\[1\\]\\]|\\{a=1\\}|1e9|nan|1979-05-27|\"\u{e4}\"))?",
            0..6
        )
    ) {
        let machine = Machine::new(Some(&lines.join("\n")));
        let _read = machine.load();
    }
}
