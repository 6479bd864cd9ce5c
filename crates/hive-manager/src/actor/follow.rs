//! Following a hive that runs, judging its silence, and judging the hive by how it stood up so far.

use std::time::Duration;

use fleet::{HiveEndpoint, HivePhase};
use hive_api::client::HiveClient;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Actor, Behind, Ended, LOOK_MAX, RETRY_FIRST, attend::serving_phase};
use crate::{
    damping::Damping,
    watch::{Followed, Heard, Left, Probed, follow, probe, prove},
};

/// A watch stream that lasted this long is opened again at once; one that did not, after a pause.
const STEADY: Duration = Duration::from_secs(1);

/// How often in a row a hive that answers probes may break the contract before it counts as unusable.
const STRIKES: u32 = 2;

/// How often in a row its stream may bring nothing behind a snapshot. A machine may be slow; it is not always.
const UNKEPT: u32 = 3;

/// How a hive stood up so far, over all attempts to follow it.
#[derive(Default)]
pub(super) struct Standing {
    damping: Damping,
    /// Streams in a row that were not kept, though the hive answered.
    strikes: u32,
    /// Whether those were too many: from then on, only a stream that is kept shows that the hive can be used.
    distrusted: bool,
    /// Whether a stream of this attempt brought anything.
    pub(super) answered: bool,
}

/// What was found when a stream had been left.
enum Verdict {
    /// It is there.
    Lives,
    /// It is there in another launch.
    OtherLaunch,
    /// Something is there that cannot be used.
    Unusable(String),
    /// Nobody answers.
    Nobody(String),
}

impl From<Probed> for Verdict {
    fn from(probed: Probed) -> Self {
        match probed {
            Probed::OtherLaunch => Self::OtherLaunch,
            Probed::NotAHive(reason) => Self::Unusable(reason),
            Probed::Nobody(reason) => Self::Nobody(reason),
        }
    }
}

impl Actor {
    pub(super) async fn follow_and_probe(&self, endpoint: &HiveEndpoint, standing: &mut Standing) -> Ended {
        let client = self.context.connections.client(endpoint.clone());
        let is_told = matches!(&self.behind, Behind::Managed(managed) if !managed.is_remote());
        let mut pause = RETRY_FIRST;
        loop {
            let began = Instant::now();
            let verdict = match self.let_in(endpoint, standing).await {
                Ok(()) => self.watch(&client, standing).await,
                Err(probed) => probed.into(),
            };
            if standing.damping.is_serving() {
                pause = RETRY_FIRST;
            }
            match verdict {
                Verdict::Lives if began.elapsed() >= STEADY => continue,
                Verdict::Lives => {}
                Verdict::OtherLaunch => {
                    standing.damping.lost(Instant::now());
                    self.context.doubt.forget(self.writer.id());
                    return Ended::Retry(HivePhase::Starting, Left::OtherLaunch.reason());
                }
                Verdict::Unusable(reason) => {
                    standing.damping.lost(Instant::now());
                    self.context.doubt.forget(self.writer.id());
                    return Ended::Retry(HivePhase::Error, reason);
                }
                Verdict::Nobody(reason) => {
                    let reason = if self.context.doubt.excuses(self.writer.id()) {
                        format!(
                            "most network hives fell silent at a time, so this queen may be cut off herself; {reason}"
                        )
                    } else {
                        standing.damping.lost(Instant::now());
                        reason
                    };
                    if !is_told {
                        // Nobody tells when a hive ends that was attached or is elsewhere, so its launch is looked for anew.
                        return Ended::Retry(HivePhase::Unreachable, reason);
                    }
                    self.context.set_phase(&self.writer, HivePhase::Unreachable, Some(reason));
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// Holds a hive back that came and went, and then has it prove itself.
    async fn let_in(&self, endpoint: &HiveEndpoint, standing: &Standing) -> Result<(), Probed> {
        let Some(held) = standing.damping.held() else { return Ok(()) };
        let left = held.until.saturating_duration_since(Instant::now()).as_secs_f32().ceil();
        let reason = format!(
            "lost {} times, each time soon after it had come back; held back for {left} s, and then until two probes in a row \
             find it",
            held.losses
        );
        self.context.set_phase(&self.writer, HivePhase::Unreachable, Some(reason));
        sleep_until(held.until).await;
        prove(&self.context, endpoint).await
    }

    /// Follows one stream to its end, and looks what is there then.
    async fn watch(&self, client: &HiveClient, standing: &mut Standing) -> Verdict {
        let (context, id) = (&self.context, self.writer.id());
        let is_network = self.behind.is_network();
        let mut tell = |heard| {
            standing.answered = true;
            if is_network {
                context.doubt.answers(id);
            }
            match (heard, standing.distrusted) {
                (Heard::Snapshot, true) | (Heard::More, false) => return None,
                (Heard::Snapshot, false) | (Heard::More, true) => standing.distrusted = false,
            }
            standing.damping.serves(Instant::now());
            Some(serving_phase(*self.intent.borrow()))
        };
        let followed = follow(context, &self.writer, client, &mut tell).await;
        let Followed { left, was_kept, was_away } = followed;
        tracing::debug!(hive_id = %id, left = %left.reason(), was_kept, was_away, "watch stream left");
        if was_kept {
            standing.strikes = 0;
        }
        match left {
            Left::Gap => return Verdict::Lives,
            Left::OtherLaunch => return Verdict::OtherLaunch,
            Left::Silent(_) | Left::Broke(_) if is_network => context.doubt.silent(id),
            Left::Silent(_) | Left::Broke(_) | Left::NotAHive(_) => {}
        }
        match probe(context, client.endpoint(), was_away).await {
            Ok(()) => {}
            Err(Probed::Nobody(reason)) => return Verdict::Nobody(format!("{}; {reason}", left.reason())),
            Err(probed) => return probed.into(),
        }
        if is_network {
            context.doubt.answers(id);
        }
        standing.judge(&left, was_kept)
    }
}

impl Standing {
    /// What a hive is worth that answers probes and whose stream was left.
    fn judge(&mut self, left: &Left, was_kept: bool) -> Verdict {
        // One that has never reported is no hive for us; one that has may be slow.
        let is_unusable = match left {
            Left::NotAHive(_) => true,
            Left::Silent(_) => !self.answered,
            Left::Gap | Left::Broke(_) | Left::OtherLaunch => false,
        };
        if was_kept && !is_unusable {
            return Verdict::Lives;
        }
        self.strikes += 1;
        if is_unusable && self.strikes >= STRIKES {
            return Verdict::Unusable(left.reason());
        }
        if self.strikes >= UNKEPT {
            self.strikes = 0;
            self.distrusted = true;
            return Verdict::Unusable(format!(
                "it answers, but {UNKEPT} times in a row its watch stream brought nothing behind the first event: {}",
                left.reason()
            ));
        }
        Verdict::Lives
    }
}
