CREATE TABLE {item} (
    namespace  text COLLATE "C" NOT NULL CHECK (octet_length(namespace) <= 128),
    key        text COLLATE "C" NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 1024),
    -- Not jsonb, which refuses \u0000, reorders keys and rewrites numbers.
    value      json             NOT NULL,
    expires_at timestamptz,
    stale_at   timestamptz,
    -- Drawn anew at every write, so that equality tells whether anybody wrote since.
    generation bigint           NOT NULL,
    -- Microseconds that computing the value took; NULL where it was not computed by larder.
    cost       bigint,
    created_at timestamptz      NOT NULL,
    updated_at timestamptz      NOT NULL,
    PRIMARY KEY (namespace, key)
) WITH (
    -- Rows die all day: vacuum after 1 % of them, not 20 %, and without its naps.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.05,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_threshold = 1000,
    toast.autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX cached_item_expires_at ON {item} (expires_at) WHERE expires_at IS NOT NULL;
