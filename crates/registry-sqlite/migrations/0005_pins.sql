-- What model references stand for in this fleet, decided once.
CREATE TABLE pins (
    model_ref TEXT PRIMARY KEY,
    resolved TEXT NOT NULL,
    files TEXT NOT NULL -- JSON: path, bytes and digest of each
) STRICT, WITHOUT ROWID;
