//! The table `hives`.

use async_trait::async_trait;
use fleet::{
    Desired, DesiredBy, HiveId, HiveKind, HiveRecord, HiveRegistry, HiveSpec, HiveStatus, ObservedHive,
    Registration, SshTarget, StoreError, Timestamp, Token,
};
use rusqlite::{Connection, Row, named_params, params};

use crate::{
    cells::Cells,
    error::{Failure, unstorable},
    rules::{self, Wanted},
    store::SqliteStore,
    words::{self, Word},
};

const TABLE: &str = "hives";

#[async_trait]
impl HiveRegistry for SqliteStore {
    async fn register(&self, spec: HiveSpec) -> Result<Registration, StoreError> {
        const ACTION: &str = "register a hive";
        self.write(ACTION, move |tx| {
            let existing = wanted(tx, &spec.id)?;
            let (answer, row) = rules::register(existing.as_ref(), spec);
            if let Some(row) = row {
                put(tx, ACTION, &row)?;
                if existing.is_none() {
                    forget_observed(tx, &row.spec.id)?;
                }
            }
            Ok(answer)
        })
        .await
    }

    async fn sync_config(&self, specs: Vec<HiveSpec>) -> Result<Vec<HiveRecord>, StoreError> {
        const ACTION: &str = "take over the configured hives";
        self.write(ACTION, move |tx| {
            let left = leave_unlisted(tx, &specs)?;
            for spec in specs {
                // A row that cannot be read is replaced: the entry says all that has to be known.
                let existing = wanted(tx, &spec.id).or_else(unreadable_is_none)?;
                let is_seen = existing.as_ref().is_some_and(|row| rules::same_machine(&row.spec, &spec));
                let row = rules::configure(existing.as_ref(), spec);
                put(tx, ACTION, &row)?;
                if !is_seen {
                    forget_observed(tx, &row.spec.id)?;
                }
            }
            planted::step("hives-configuring");
            Ok(left)
        })
        .await
    }

    async fn get(&self, id: &HiveId) -> Result<Option<HiveRecord>, StoreError> {
        let id = id.clone();
        self.read("read a hive", move |db| {
            let mut statement = db.prepare_cached("SELECT * FROM hives WHERE id = ?1 AND NOT leaving")?;
            let mut rows = statement.query([id.as_str()])?;
            Ok(rows.next()?.map(record).transpose()?)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Result<HiveRecord, StoreError>>, StoreError> {
        self.read("list the hives", |db| listed(db, false)).await
    }

    async fn set_desired(
        &self,
        id: &HiveId,
        desired: Desired,
        by: DesiredBy,
    ) -> Result<(Desired, DesiredBy), StoreError> {
        const ACTION: &str = "set what a hive should do";
        let id = id.clone();
        self.write(ACTION, move |tx| {
            let now = desired_of(tx, &id)?.ok_or_else(|| not_found(&id, ACTION))?;
            let then = rules::decide(now, (desired, by));
            if then != now {
                let (desired, paused) = words::desired(then.0);
                tx.prepare_cached(
                    "UPDATE hives SET desired = ?2, paused = ?3, desired_by = ?4 WHERE id = ?1",
                )?
                .execute(params![id.as_str(), desired, paused, then.1.word()])?;
            }
            Ok(then)
        })
        .await
    }

    async fn observe(&self, id: &HiveId, seen: ObservedHive) -> Result<(), StoreError> {
        const ACTION: &str = "note what a hive reported";
        let capabilities = seen.capabilities.as_ref().map(serde_json::to_string).transpose();
        let capabilities = capabilities.map_err(|error| unstorable(ACTION, error.to_string()))?;
        let id = id.clone();
        self.write(ACTION, move |tx| {
            let written = tx
                .prepare_cached(
                    "UPDATE hives SET status = ?2, last_seen = coalesce(?3, last_seen), \
                     capabilities = coalesce(?4, capabilities) WHERE id = ?1 AND NOT leaving",
                )?
                .execute(params![
                    id.as_str(),
                    seen.status.word(),
                    seen.last_seen.map(Timestamp::as_millis),
                    capabilities
                ])?;
            if written == 0 { Err(not_found(&id, ACTION).into()) } else { Ok(()) }
        })
        .await
    }

    async fn leave(&self, id: &HiveId) -> Result<bool, StoreError> {
        let id = id.clone();
        self.write("note that a hive leaves", move |tx| Ok(leave(tx, &id)?)).await
    }

    async fn leaving(&self) -> Result<Vec<Result<HiveRecord, StoreError>>, StoreError> {
        self.read("list the hives that leave", |db| listed(db, true)).await
    }

    async fn remove(&self, id: &HiveId) -> Result<bool, StoreError> {
        let id = id.clone();
        self.write("remove a hive", move |tx| {
            Ok(tx.prepare_cached("DELETE FROM hives WHERE id = ?1")?.execute([id.as_str()])? > 0)
        })
        .await
    }
}

fn listed(db: &Connection, leaving: bool) -> Result<Vec<Result<HiveRecord, StoreError>>, Failure> {
    let mut statement = db.prepare_cached("SELECT * FROM hives WHERE leaving = ?1 ORDER BY id")?;
    let mut rows = statement.query([leaving])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(record(row));
    }
    Ok(records)
}

fn not_found(id: &HiveId, action: &'static str) -> StoreError {
    StoreError::NotFound { table: TABLE, key: id.to_string(), action }
}

fn unreadable_is_none(failure: Failure) -> Result<Option<Wanted>, Failure> {
    match failure {
        Failure::Store(StoreError::Row { table, key, reason }) => {
            tracing::warn!(table, key, reason, "unreadable row replaced by its configuration entry");
            Ok(None)
        }
        other => Err(other),
    }
}

/// The decided part of a row; what was observed may be unreadable.
fn wanted(db: &Connection, id: &HiveId) -> Result<Option<Wanted>, Failure> {
    let mut statement = db.prepare_cached("SELECT * FROM hives WHERE id = ?1 AND NOT leaving")?;
    let mut rows = statement.query([id.as_str()])?;
    Ok(rows.next()?.map(|row| read_wanted(&cells(row))).transpose()?)
}

fn desired_of(db: &Connection, id: &HiveId) -> Result<Option<(Desired, DesiredBy)>, Failure> {
    let mut statement =
        db.prepare_cached("SELECT id, desired, paused, desired_by FROM hives WHERE id = ?1 AND NOT leaving")?;
    let mut rows = statement.query([id.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let cells = cells(row);
    Ok(Some((read_desired(&cells)?, cells.word("desired_by")?)))
}

fn cells<'a>(row: &'a Row<'a>) -> Cells<'a> {
    Cells::new(TABLE, &["id"], row)
}

fn record(row: &Row<'_>) -> Result<HiveRecord, StoreError> {
    let cells = cells(row);
    let Wanted { spec, desired, desired_by } = read_wanted(&cells)?;
    let status: Option<String> = cells.get("status")?;
    Ok(HiveRecord {
        spec,
        desired,
        desired_by,
        capabilities: cells.json("capabilities")?,
        last_seen: cells.get::<Option<i64>>("last_seen")?.map(Timestamp::from_millis),
        status: if status.is_some() { cells.word("status")? } else { HiveStatus::Offline },
    })
}

fn read_wanted(cells: &Cells<'_>) -> Result<Wanted, StoreError> {
    let kind = match cells.get::<String>("kind")?.as_str() {
        "managed" => HiveKind::Managed,
        // The reason says nothing of the text, which is a secret even when it is no token.
        "attached" => HiveKind::Attached {
            token: cells.parse_optional::<Token>("token")?,
            pin: cells.parse_optional("tls_fingerprint")?,
        },
        other => return Err(cells.broken(format_args!("kind: unknown word {other:?}"))),
    };
    let spec = HiveSpec {
        id: cells.parse("id")?,
        hostname: cells.parse("hostname")?,
        port: cells.get("port")?,
        mode: cells.word("mode")?,
        ssh: SshTarget {
            user: cells.get("ssh_user")?,
            port: cells.get("ssh_port")?,
            key_path: cells.get::<Option<String>>("ssh_key_path")?.map(Into::into),
            host_key: cells.get("host_key")?,
        },
        region: cells.get("region")?,
        labels: cells.json("labels")?.unwrap_or_default(),
        source: cells.word("source")?,
        kind,
        start: cells.word("start")?,
    };
    Ok(Wanted { spec, desired: read_desired(cells)?, desired_by: cells.word("desired_by")? })
}

fn read_desired(cells: &Cells<'_>) -> Result<Desired, StoreError> {
    let word: String = cells.get("desired")?;
    let desired = words::of_desired(&word, cells.get("paused")?);
    desired.ok_or_else(|| cells.broken(format_args!("desired: unknown word {word:?}")))
}

/// Writes the decided part of a row and leaves the observed one.
fn put(db: &Connection, action: &'static str, row: &Wanted) -> Result<(), Failure> {
    let Wanted { spec, desired, desired_by } = row;
    let (word, paused) = words::desired(*desired);
    let key_path = spec.ssh.key_path.as_ref().map(|path| {
        let text = path.to_str().ok_or_else(|| unstorable(action, "the path of the SSH key is not UTF-8"));
        text.map(str::to_owned)
    });
    let (kind, token, pin) = match &spec.kind {
        HiveKind::Managed => ("managed", None, None),
        HiveKind::Attached { token, pin } => ("attached", token.as_ref().map(Token::reveal), *pin),
    };
    let labels = serde_json::to_string(&spec.labels).map_err(|e| unstorable(action, e.to_string()))?;
    db.prepare_cached(
        "INSERT INTO hives (id, hostname, port, mode, ssh_key_path, status, ssh_user, ssh_port, host_key, region, \
         labels, desired, paused, desired_by, source, kind, token, start, tls_fingerprint) \
         VALUES (:id, :hostname, :port, :mode, :ssh_key_path, 'offline', :ssh_user, :ssh_port, :host_key, :region, \
         :labels, :desired, :paused, :desired_by, :source, :kind, :token, :start, :pin) \
         ON CONFLICT (id) DO UPDATE SET hostname = :hostname, port = :port, mode = :mode, \
         ssh_key_path = :ssh_key_path, ssh_user = :ssh_user, ssh_port = :ssh_port, host_key = :host_key, \
         region = :region, labels = :labels, desired = :desired, paused = :paused, desired_by = :desired_by, source = :source, \
         kind = :kind, token = :token, start = :start, tls_fingerprint = :pin, leaving = 0",
    )?
    .execute(named_params! {
        ":id": spec.id.as_str(),
        ":hostname": spec.hostname.as_str(),
        ":port": spec.port,
        ":mode": spec.mode.word(),
        ":ssh_key_path": key_path.transpose()?,
        ":ssh_user": spec.ssh.user,
        ":ssh_port": spec.ssh.port,
        ":host_key": spec.ssh.host_key,
        ":region": spec.region,
        ":labels": labels,
        ":desired": word,
        ":paused": paused,
        ":desired_by": desired_by.word(),
        ":source": spec.source.word(),
        ":kind": kind,
        ":token": token,
        ":start": spec.start.word(),
        ":pin": pin.map(|pin| pin.to_string()),
    })?;
    Ok(())
}

fn forget_observed(db: &Connection, id: &HiveId) -> Result<(), Failure> {
    db.prepare_cached(
        "UPDATE hives SET capabilities = NULL, last_seen = NULL, status = 'offline' WHERE id = ?1",
    )?
    .execute([id.as_str()])?;
    Ok(())
}

fn leave(db: &Connection, id: &HiveId) -> rusqlite::Result<bool> {
    let mut statement = db.prepare_cached("UPDATE hives SET leaving = 1 WHERE id = ?1 AND NOT leaving")?;
    Ok(statement.execute([id.as_str()])? > 0)
}

/// Has the rows of the configuration leave whose entry is gone. One whose description cannot be read stays, because nobody
/// could stop what it names; it shows as an error in every listing until it is removed by id.
fn leave_unlisted(db: &Connection, specs: &[HiveSpec]) -> Result<Vec<HiveRecord>, Failure> {
    let mut statement =
        db.prepare_cached("SELECT * FROM hives WHERE source = 'config' AND NOT leaving ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut left = Vec::new();
    while let Some(row) = rows.next()? {
        let record = record(row).or_else(|error| {
            tracing::warn!(error = %error, "configuration row that leaves is not wholly readable");
            let unseen = |Wanted { spec, desired, desired_by }| HiveRecord {
                spec,
                desired,
                desired_by,
                capabilities: None,
                last_seen: None,
                status: HiveStatus::Error,
            };
            read_wanted(&cells(row)).map(unseen)
        });
        left.extend(record.ok().filter(|record| specs.iter().all(|spec| spec.id != record.spec.id)));
    }
    for record in &left {
        leave(db, &record.spec.id)?;
    }
    Ok(left)
}
