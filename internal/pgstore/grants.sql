-- Whether a role is there that has not been given its rights yet.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_roles r
    WHERE r.rolname IN ('dgm_service', 'dgm_readonly') AND pg_catalog.to_regprocedure('dgm.grant_roles()') IS NOT NULL
        AND NOT pg_catalog.has_schema_privilege(r.oid, pg_catalog.to_regnamespace('dgm'), 'USAGE'));
