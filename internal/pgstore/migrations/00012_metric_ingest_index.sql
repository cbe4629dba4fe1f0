-- min-compatible-binary: 5
-- +goose Up
-- An index on a partitioned table is made without its partitions first, which takes no time. Those of small
-- partitions are built here; those of large ones by the operator, concurrently, while samples come in.
CREATE INDEX performance_metrics_ingest_xid ON ONLY dgm.performance_metrics (((ingest_xid::text)::bigint));

-- +goose StatementBegin
CREATE FUNCTION dgm.unfinished_indexes(OUT parent_index name, OUT partition name, OUT index_name name, OUT state text, OUT next_statement text) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
SELECT i.parent_index, i.partition, i.index_name,
    CASE
        WHEN i.existing IS NULL THEN 'missing'
        WHEN i.valid THEN 'detached'
        ELSE 'invalid'
    END,
    CASE
        WHEN i.existing IS NULL THEN regexp_replace(i.definition, '^CREATE (UNIQUE )?INDEX .+? ON ONLY .+? USING ',
            format('CREATE \1INDEX CONCURRENTLY %I ON dgm.%I USING ', i.index_name, i.partition))
        WHEN i.valid THEN format('ALTER INDEX dgm.%I ATTACH PARTITION dgm.%I', i.parent_index, i.index_name)
        ELSE format('DROP INDEX CONCURRENTLY dgm.%I', i.index_name)
    END
FROM (
    SELECT parent.relname AS parent_index, part.relname AS partition, named.name::name AS index_name, pg_get_indexdef(parent.oid) AS definition,
        child.indexrelid AS existing, child.indisvalid AS valid
    FROM pg_index pi
    JOIN pg_class parent ON parent.oid = pi.indexrelid AND parent.relkind = 'I' AND parent.relnamespace = 'dgm'::regnamespace
    JOIN pg_class tab ON tab.oid = pi.indrelid
    JOIN pg_inherits inh ON inh.inhparent = pi.indrelid
    JOIN pg_class part ON part.oid = inh.inhrelid
    CROSS JOIN LATERAL (
        SELECT CASE WHEN starts_with(parent.relname, tab.relname) THEN part.relname || substr(parent.relname, length(tab.relname) + 1)
            ELSE part.relname || '_' || left(md5(parent.relname), 8) END AS name
    ) named
    LEFT JOIN (pg_class c JOIN pg_index child ON child.indexrelid = c.oid)
        ON c.relnamespace = 'dgm'::regnamespace AND c.relname = named.name AND child.indrelid = part.oid
    WHERE NOT EXISTS (
        SELECT FROM pg_inherits ci JOIN pg_index attached ON attached.indexrelid = ci.inhrelid
        WHERE ci.inhparent = parent.oid AND attached.indrelid = part.oid)
) i
ORDER BY 1, 2
$$;
-- +goose StatementEnd
COMMENT ON FUNCTION dgm.unfinished_indexes() IS 'Parts of indexes of partitioned tables that a partition lacks; why (missing; invalid: a build was interrupted; detached: built, and to be attached); and the statement that is to be run next for each, by the owner of the tables and outside of a transaction, until no row is left. The leader and `manager migrate up` do so.';

-- +goose StatementBegin
DO $$
DECLARE
    step record;
BEGIN
    FOR step IN
        SELECT partition, index_name FROM dgm.unfinished_indexes()
        WHERE parent_index = 'performance_metrics_ingest_xid' AND pg_relation_size(format('dgm.%I', partition)::regclass) <= 8 * 1024 * 1024
    LOOP
        EXECUTE format('CREATE INDEX %I ON dgm.%I (((ingest_xid::text)::bigint))', step.index_name, step.partition);
        EXECUTE format('ALTER INDEX dgm.performance_metrics_ingest_xid ATTACH PARTITION dgm.%I', step.index_name);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DO $$
DECLARE
    step record;
BEGIN
    FOR step IN SELECT index_name FROM dgm.unfinished_indexes() WHERE parent_index = 'performance_metrics_ingest_xid' AND state <> 'missing' LOOP
        EXECUTE format('DROP INDEX dgm.%I', step.index_name);
    END LOOP;
END $$;
-- +goose StatementEnd
DROP FUNCTION dgm.unfinished_indexes();
DROP INDEX dgm.performance_metrics_ingest_xid;
