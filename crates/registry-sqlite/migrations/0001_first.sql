-- The registered hives. A row that somebody adds by hand with the first eight columns alone is a legal one.
CREATE TABLE hives (
    id TEXT PRIMARY KEY,
    hostname TEXT NOT NULL,
    port INTEGER NOT NULL CHECK (port BETWEEN 0 AND 65535),
    mode TEXT NOT NULL CHECK (mode IN ('local', 'network')),
    ssh_key_path TEXT,
    capabilities JSON,
    last_seen TIMESTAMP, -- milliseconds since 1970-01-01 UTC
    status TEXT CHECK (status IN ('online', 'offline', 'error')),
    ssh_user TEXT,
    ssh_port INTEGER CHECK (ssh_port BETWEEN 0 AND 65535),
    host_key TEXT,
    region TEXT,
    labels JSON NOT NULL DEFAULT '[]',
    desired TEXT NOT NULL DEFAULT 'running' CHECK (desired IN ('running', 'stopped', 'drained')),
    desired_by TEXT NOT NULL DEFAULT 'person' CHECK (desired_by IN ('person', 'placement')),
    source TEXT NOT NULL DEFAULT 'api' CHECK (source IN ('config', 'api')),
    kind TEXT NOT NULL DEFAULT 'managed' CHECK (kind IN ('managed', 'attached')),
    token TEXT, -- of an attached hive only; a managed hive's token is derived and never stored
    start TEXT NOT NULL DEFAULT 'always' CHECK (start IN ('always', 'on_demand'))
);

-- Launches of hives, committed before they are acted on. They outlive the hive's row, because a process may.
CREATE TABLE hive_launches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    launch_id TEXT NOT NULL UNIQUE,
    hive_id TEXT NOT NULL,
    step TEXT NOT NULL CHECK (step IN ('intended', 'spawned', 'healthy', 'ended')),
    pid INTEGER,
    start_time INTEGER,
    boot_id TEXT,
    CHECK ((pid IS NULL) = (start_time IS NULL) AND (pid IS NULL) = (boot_id IS NULL))
) STRICT;

CREATE INDEX hive_launches_by_hive ON hive_launches (hive_id, seq);

-- The central catalog: which hive has which model.
CREATE TABLE models (
    hive_id TEXT NOT NULL,
    model_ref TEXT NOT NULL,
    resolved TEXT,
    state TEXT NOT NULL CHECK (state IN ('downloading', 'complete', 'failed')),
    reason TEXT,
    bytes INTEGER CHECK (bytes >= 0),
    digest TEXT,
    updated_at INTEGER NOT NULL, -- milliseconds since 1970-01-01 UTC
    PRIMARY KEY (model_ref, hive_id)
) STRICT, WITHOUT ROWID;

-- What workers were seen to need and to do. A shape is everything up to `slots`.
CREATE TABLE observations (
    resolved TEXT NOT NULL,
    hive_id TEXT NOT NULL,
    engine TEXT NOT NULL,
    device TEXT NOT NULL,
    context INTEGER NOT NULL,
    slots INTEGER NOT NULL,
    peak_memory INTEGER NOT NULL CHECK (peak_memory >= 0), -- bytes
    load_s REAL NOT NULL,
    prefill_tok_s REAL,
    decode_tok_s REAL,
    PRIMARY KEY (resolved, hive_id, engine, device, context, slots)
) STRICT, WITHOUT ROWID;

-- API keys: their hashes, never the keys.
CREATE TABLE api_keys (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL UNIQUE,
    scope TEXT NOT NULL CHECK (scope IN ('infer', 'admin')),
    limits TEXT NOT NULL DEFAULT '{}',
    created_at INTEGER NOT NULL, -- milliseconds since 1970-01-01 UTC
    revoked_at INTEGER
) STRICT;
