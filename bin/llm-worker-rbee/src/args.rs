//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;

/// Serves one GGUF file over OpenAI's HTTP API.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "llm-worker-rbee", version)]
pub(crate) struct Args {
    /// The model: a GGUF file, or any shard of one that lies in several
    #[arg(long, value_name = "FILE")]
    pub(crate) model: PathBuf,
    /// The name requests ask for
    #[arg(long, value_name = "NAME")]
    pub(crate) served_name: String,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// The port to listen on
    #[arg(long)]
    pub(crate) port: u16,
    /// The most tokens of prompt and answer together [default: what the model was trained for, which is also the most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
    /// The most generations at once; further requests wait
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) slots: u16,
    /// Where to compute: auto, cpu:0, cuda:N or metal:0
    #[arg(long, default_value = "auto")]
    pub(crate) device: DeviceChoice,
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// The first GPU this build can use, else the CPU.
    Auto,
    Cpu,
    Cuda(usize),
    Metal,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" | "cpu:0" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" | "metal:0" => Ok(Self::Metal),
            _ => match text.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
                Some(index) => Ok(Self::Cuda(index)),
                None => Err("must be auto, cpu:0, cuda:N or metal:0".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_defaults_serve_four_at_once_on_this_machine_only() {
        let args = parse("w --model m.gguf --served-name hf:a/b --port 8000").unwrap();
        assert_eq!((args.host.to_string().as_str(), args.port), ("127.0.0.1", 8000));
        assert_eq!((args.context, args.slots, args.device), (None, 4, DeviceChoice::Auto));
    }

    #[test]
    fn devices_are_named_as_the_hive_names_them() {
        for (text, device) in [
            ("cpu:0", DeviceChoice::Cpu),
            ("cuda:1", DeviceChoice::Cuda(1)),
            ("metal:0", DeviceChoice::Metal),
        ] {
            assert_eq!(text.parse(), Ok(device));
        }
        assert!("cuda:x".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn no_slots_or_no_context_make_no_worker() {
        assert!(parse("w --model m --served-name n --port 1 --slots 0").is_err());
        assert!(parse("w --model m --served-name n --port 1 --context 0").is_err());
        assert!(parse("w --model m --port 1").is_err());
    }
}
