-- What this role lacks to migrate; empty when that is not known.
SELECT CASE
    WHEN pg_catalog.to_regnamespace('dgm') IS NULL AND pg_catalog.pg_has_role(session_user, r.owner, 'MEMBER') IS FALSE
        AND pg_catalog.has_database_privilege(r.owner, pg_catalog.current_database(), 'CREATE')
        THEN pg_catalog.format('GRANT dgm_owner TO %I', session_user)
    WHEN pg_catalog.to_regnamespace('dgm') IS NULL
        THEN pg_catalog.format('GRANT CREATE ON DATABASE %I TO %I', pg_catalog.current_database(), session_user)
    WHEN NOT pg_catalog.pg_has_role(session_user, s.nspowner, 'MEMBER')
        THEN pg_catalog.format('GRANT %I TO %I', s.nspowner::pg_catalog.regrole::text, session_user)
    ELSE '' END
FROM (SELECT pg_catalog.to_regrole('dgm_owner')::oid AS owner) r
LEFT JOIN pg_catalog.pg_namespace s ON s.nspname = 'dgm';
