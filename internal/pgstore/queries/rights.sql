-- What gives the role of this connection the rights of the operator.
-- name: RightsToServe :one
SELECT CASE
    WHEN r.service IS NULL THEN COALESCE(format('GRANT %s TO %I', (SELECT n.nspowner::regrole FROM pg_catalog.pg_namespace n WHERE n.nspname = 'dgm'), session_user), '')
    WHEN NOT pg_has_role(session_user, r.service, 'USAGE') THEN format('GRANT dgm_service TO %I', session_user)
    ELSE 'SELECT dgm.grant_roles(), as dgm_owner' END::text AS mend
FROM (SELECT to_regrole('dgm_service')::oid AS service) r;
