-- Who may do what in this database: as text, so that it can be reviewed. A privilege on all columns says so without naming
-- them; one on the whole table, which covers columns to come, has a +. Monthly partitions are one line.
SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") FROM (
    WITH role (name) AS (VALUES ('dgm_service'), ('dgm_readonly'), ('public')),
    relation AS (
        SELECT c.oid, c.relkind, regexp_replace(c.relname, '_[0-9]{6}$', '_YYYYMM') AS name FROM pg_class c
        WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    ),
    whole (privilege) AS (VALUES ('DELETE'), ('TRUNCATE'), ('TRIGGER')),
    by_column (privilege) AS (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('REFERENCES')),
    granted AS (
        SELECT t.name AS relation, r.name AS role, w.privilege || '+' AS what
        FROM relation t, role r, whole w WHERE has_table_privilege(r.name, t.oid, w.privilege)
        UNION ALL
        SELECT t.name, r.name, b.privilege || CASE
            WHEN has_table_privilege(r.name, t.oid, b.privilege) THEN '+'
            WHEN count(*) FILTER (WHERE NOT a.may) = 0 THEN ''
            WHEN count(*) FILTER (WHERE a.may) > count(*) FILTER (WHERE NOT a.may)
                THEN ' but not (' || string_agg(a.attname, ', ' ORDER BY a.attnum) FILTER (WHERE NOT a.may) || ')'
            ELSE ' (' || string_agg(a.attname, ', ' ORDER BY a.attnum) FILTER (WHERE a.may) || ')' END
        FROM relation t, role r, by_column b,
        LATERAL (SELECT a.attname, a.attnum, has_column_privilege(r.name, t.oid, a.attnum, b.privilege) AS may
            FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped) a
        GROUP BY t.oid, t.name, r.name, b.privilege HAVING bool_or(a.may)
    )
    SELECT format('table %s: %s: %s', t.name, r.name, coalesce((SELECT string_agg(DISTINCT g.what, ', ' ORDER BY g.what)
        FROM granted g WHERE g.relation = t.name AND g.role = r.name), '-')) AS line
    FROM (SELECT DISTINCT name FROM relation) t, role r
    UNION ALL
    SELECT format('sequence %s: %s: %s', c.relname, r.name, coalesce((SELECT string_agg(p.privilege, ', ' ORDER BY p.privilege)
        FROM (VALUES ('SELECT'), ('USAGE'), ('UPDATE')) AS p (privilege) WHERE has_sequence_privilege(r.name, c.oid, p.privilege)), '-'))
    FROM pg_class c, role r WHERE c.relnamespace = 'dgm'::regnamespace AND c.relkind = 'S'
    UNION ALL
    SELECT format('function %s%s: %s', p.oid::regprocedure, CASE WHEN p.prosecdef THEN ' as its owner' ELSE '' END,
        coalesce((SELECT string_agg(r.name, ', ' ORDER BY r.name) FROM role r WHERE has_function_privilege(r.name, p.oid, 'EXECUTE')), '-'))
    FROM pg_proc p WHERE p.pronamespace = 'dgm'::regnamespace
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    UNION ALL
    SELECT format('schema %s: %s: %s', n.nspname, r.name, coalesce((SELECT string_agg(p.privilege, ', ' ORDER BY p.privilege)
        FROM (VALUES ('CREATE'), ('USAGE')) AS p (privilege) WHERE has_schema_privilege(r.name, n.oid, p.privilege)), '-'))
    FROM pg_namespace n, role r WHERE n.nspname IN ('dgm', 'public')
    UNION ALL
    SELECT format('database: %s: %s', r.name, coalesce((SELECT string_agg(p.privilege, ', ' ORDER BY p.privilege)
        FROM (VALUES ('CREATE'), ('CONNECT'), ('TEMPORARY')) AS p (privilege) WHERE has_database_privilege(r.name, current_database(), p.privilege)), '-'))
    FROM role r
    UNION ALL
    SELECT format('objects to come of %s in %s: %s', d.defaclrole::regrole, d.defaclnamespace::regnamespace, d.defaclacl) FROM pg_default_acl d
) rights
