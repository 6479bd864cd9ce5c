-- A paused hive is a drained one whose workers are stopped at once. An older queen that reads the row sees a drained hive.
ALTER TABLE hives ADD COLUMN paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1));
