//! A scripted hive with scripted workers.
//!
//! It serves the real contract through the real router of `hive-api`, so it cannot drift from what hives speak, and it
//! runs no engine: its workers recite the text of `tiny-model`, so that every lost, doubled or foreign word of an answer
//! shows. What it does wrong is written down in one value, the [`Script`], which a test may change at any time; what it
//! was asked is written down in its journal.
//!
//! The key decision: faults of single calls and of workers are made above HTTP, faults of bytes below it (`wire`), and a
//! handler may harm its own connection, so every fault of the catalogue, from a 404 to a reset in mid-word, comes from one
//! script and through one socket. It is used inside a test as [`FakeHive`], or as the program `fake-hive`, which takes
//! the command line of a real hive and is steered over a second port.
//!
//! Invariants: a default script keeps the contract in every point; unknown parts of a script are refused; journal and
//! log hold no prompt, no answer and no token.

mod script;

mod state;
mod store;

mod download;
mod life;
mod machine;
mod watch;
mod worker;

mod front;
mod garbage;
mod hive;
mod journal;
mod net;
mod secret;
mod wire;

mod act;
mod handle;

mod control;
mod program;

pub use act::{Act, ActError};
pub use handle::{FakeHive, Options};
pub use journal::{Call, HeaderCheck, Outcome};
pub use program::run;
pub use script::{
    Answer, AnswerText, Busy, CallName, CallScript, ClaimedWorker, Claims, Cut, CutAfter, Direction,
    DownloadScript, Garbage, Load, MachineScript, ModelScript, ModelsScript, Moment, Script, ScriptError,
    StartScript, StopScript, WatchScript, WireScript, WorkerAct, WorkerFault, WorkerScript,
};
