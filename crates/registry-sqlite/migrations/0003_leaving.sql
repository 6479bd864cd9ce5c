-- A hive that is being removed keeps its row until what runs of it has ended, so that a queen that was killed meanwhile is
-- succeeded by one that knows.
ALTER TABLE hives ADD COLUMN leaving INTEGER NOT NULL DEFAULT 0 CHECK (leaving IN (0, 1));
