-- A job's row is written at least twice, each time with an entry of its id in this index. Pages that are filled by halves take the
-- second one without being split, which made them half empty then. Rewrites nothing: pages that are there stay as they are.
ALTER INDEX {schema}.job_pkey SET (fillfactor = 50);
