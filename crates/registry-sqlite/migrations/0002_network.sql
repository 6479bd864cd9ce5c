-- What reaching a hive on another machine takes: the certificate that an attached hive shows, and where a launched one
-- listens, so that the next queen reaches it without logging in there first.
ALTER TABLE hives ADD COLUMN tls_fingerprint TEXT; -- of an attached hive only
ALTER TABLE hive_launches ADD COLUMN port INTEGER CHECK (port BETWEEN 0 AND 65535);
ALTER TABLE hive_launches ADD COLUMN tls_fingerprint TEXT;
