//! The table `hive_launches`.

use async_trait::async_trait;
use fleet::{
    HiveId, LaunchFacts, LaunchId, LaunchJournal, LaunchRecord, LaunchStep, ProcessIdentity, StoreError,
};
use rusqlite::{Connection, Row, params};

use crate::{
    cells::Cells,
    error::{Failure, unstorable},
    rules::{self, ENDED_LAUNCHES_KEPT},
    store::SqliteStore,
    words::Word,
};

const TABLE: &str = "hive_launches";

#[async_trait]
impl LaunchJournal for SqliteStore {
    async fn intend(&self, launch: LaunchId, hive: HiveId) -> Result<(), StoreError> {
        const ACTION: &str = "note an intended launch";
        self.write(ACTION, move |tx| {
            if let Some(existing) = find(tx, &launch)? {
                let again = existing.hive_id == hive && existing.step == LaunchStep::Intended;
                return if again { Ok(()) } else { Err(taken(ACTION, &launch)) };
            }
            insert(tx, &launch, &hive)?;
            forget_old(tx, &hive)
        })
        .await
    }

    async fn advance(
        &self,
        launch: &LaunchId,
        step: LaunchStep,
        facts: LaunchFacts,
    ) -> Result<(), StoreError> {
        const ACTION: &str = "note the progress of a launch";
        let launch = launch.clone();
        self.write(ACTION, move |tx| {
            let missing = || StoreError::NotFound { table: TABLE, key: launch.to_string(), action: ACTION };
            let now = find(tx, &launch)?.ok_or_else(missing)?;
            let Some(then) = rules::advance(&now, step, facts) else { return Ok(()) };
            update(tx, &then)
        })
        .await
    }

    async fn found(&self, launch: LaunchId, hive: HiveId, facts: LaunchFacts) -> Result<(), StoreError> {
        const ACTION: &str = "note a launch that was found";
        self.write(ACTION, move |tx| {
            let now = match find(tx, &launch)? {
                Some(now) if now.hive_id != hive => return Err(taken(ACTION, &launch)),
                Some(now) => now,
                None => {
                    insert(tx, &launch, &hive)?;
                    let (step, facts) = (LaunchStep::Intended, LaunchFacts::default());
                    LaunchRecord { launch_id: launch, hive_id: hive, step, facts }
                }
            };
            update(tx, &rules::found(now, facts))
        })
        .await
    }

    async fn open(&self, hive: &HiveId) -> Result<Vec<LaunchRecord>, StoreError> {
        let hive = hive.clone();
        self.read("read the launches of a hive", move |db| {
            let mut statement = db.prepare_cached(
                "SELECT * FROM hive_launches WHERE hive_id = ?1 AND step != 'ended' ORDER BY seq DESC",
            )?;
            let mut rows = statement.query([hive.as_str()])?;
            let mut launches = Vec::new();
            while let Some(row) = rows.next()? {
                launches.push(record(row)?);
            }
            Ok(launches)
        })
        .await
    }
}

fn taken(action: &'static str, launch: &LaunchId) -> Failure {
    unstorable(action, format!("launch {launch} is another one already")).into()
}

fn insert(tx: &Connection, launch: &LaunchId, hive: &HiveId) -> Result<(), Failure> {
    tx.prepare_cached("INSERT INTO hive_launches (launch_id, hive_id, step) VALUES (?1, ?2, 'intended')")?
        .execute([launch.as_str(), hive.as_str()])?;
    Ok(())
}

fn update(tx: &Connection, then: &LaunchRecord) -> Result<(), Failure> {
    let process = then.facts.process.as_ref();
    tx.prepare_cached(
        "UPDATE hive_launches SET step = ?2, pid = ?3, start_time = ?4, boot_id = ?5, port = ?6, \
         tls_fingerprint = ?7 \
         WHERE launch_id = ?1",
    )?
    .execute(params![
        then.launch_id.as_str(),
        then.step.word(),
        process.map(|p| p.pid),
        // Identity must be exact, so the bits are kept rather than the number.
        process.map(|p| p.start_time.cast_signed()),
        process.map(|p| &p.boot_id),
        then.facts.port,
        then.facts.tls_fingerprint.map(|f| f.to_string()),
    ])?;
    Ok(())
}

fn find(db: &Connection, launch: &LaunchId) -> Result<Option<LaunchRecord>, Failure> {
    let mut statement = db.prepare_cached("SELECT * FROM hive_launches WHERE launch_id = ?1")?;
    let mut rows = statement.query([launch.as_str()])?;
    Ok(rows.next()?.map(record).transpose()?)
}

fn record(row: &Row<'_>) -> Result<LaunchRecord, StoreError> {
    let cells = Cells::new(TABLE, &["launch_id"], row);
    let pid: Option<u32> = cells.get("pid")?;
    let process = match pid {
        None => None,
        Some(pid) => Some(ProcessIdentity {
            pid,
            start_time: cells.get::<i64>("start_time")?.cast_unsigned(),
            boot_id: cells.get("boot_id")?,
        }),
    };
    Ok(LaunchRecord {
        launch_id: cells.parse("launch_id")?,
        hive_id: cells.parse("hive_id")?,
        step: cells.word("step")?,
        facts: LaunchFacts {
            process,
            port: cells.get("port")?,
            tls_fingerprint: cells.parse_optional("tls_fingerprint")?,
        },
    })
}

fn forget_old(db: &Connection, hive: &HiveId) -> Result<(), Failure> {
    db.prepare_cached(
        "DELETE FROM hive_launches WHERE hive_id = ?1 AND step = 'ended' AND seq NOT IN \
         (SELECT seq FROM hive_launches WHERE hive_id = ?1 AND step = 'ended' ORDER BY seq DESC LIMIT ?2)",
    )?
    .execute(params![hive.as_str(), i64::try_from(ENDED_LAUNCHES_KEPT).unwrap_or(i64::MAX)])?;
    Ok(())
}
