-- name: SettingValues :many
SELECT c.key, c.value::text AS value FROM dgm.system_configurations c
WHERE c.key = ANY (@keys::text[]) AND c.value IS NOT NULL AND c.deleted_at IS NULL;

-- Changes with every write of a configuration or a constitution.
-- name: ConfigurationFingerprint :one
SELECT md5(concat(
    (SELECT string_agg(concat_ws(' ', c.id, c.xmin), ',' ORDER BY c.id) FROM dgm.system_configurations c), '/',
    (SELECT string_agg(concat_ws(' ', k.hash, k.xmin), ',' ORDER BY k.hash) FROM dgm.known_constitutions k)))::text AS fingerprint;

-- A key as it stands, and what the active constitution says of it. The problem
-- is that of value, and of the present one where value is null; version changes
-- with everything that an answer rests on.
-- name: Configuration :one
SELECT (c.id IS NOT NULL)::boolean AS found, c.value, COALESCE(c.value_type, '')::text AS value_type,
    COALESCE(c.description, '')::text AS description, COALESCE(c.category, '')::text AS category,
    COALESCE(c.is_sensitive, false)::boolean AS is_sensitive, COALESCE(c.is_builtin, false)::boolean AS is_builtin,
    COALESCE(c.is_readonly, false)::boolean AS is_readonly,
    COALESCE(c.validation_rules::text, '')::text AS validation_rules, c.encrypted_value, COALESCE(c.key_id, '')::text AS key_id,
    COALESCE(c.cluster, '')::text AS cluster, COALESCE(c.name, '')::text AS name, COALESCE(c.uid, '')::text AS uid,
    COALESCE(c.generation, 0)::bigint AS generation, (c.deleted_at IS NOT NULL)::boolean AS deleted, c.updated_at,
    COALESCE(c.writer_epoch, 0)::bigint AS writer_epoch, COALESCE(c.revision, 0)::bigint AS revision,
    COALESCE(k.hash, '')::text AS constitution, COALESCE((k.configuration_rules -> r.key)::text, '')::text AS constitution_rules,
    COALESCE(p.kind, '')::text AS problem_kind, COALESCE(p.problem, '')::text AS problem,
    concat_ws('/', c.xmin, k.hash, k.xmin)::text AS version
FROM (SELECT @key::text AS key, sqlc.narg('value')::text AS value, @value_type::text AS value_type) r
LEFT JOIN dgm.system_configurations c ON c.key = r.key
LEFT JOIN dgm.known_constitutions k ON k.active
CROSS JOIN LATERAL dgm.configuration_problem(r.key, COALESCE(r.value, c.value),
    COALESCE(NULLIF(r.value_type, ''), c.value_type, 'string'), c.validation_rules) p;

-- name: LockConfiguration :exec
SELECT c.id FROM dgm.system_configurations c WHERE c.key = @key::text FOR UPDATE;

-- name: InsertConfiguration :execrows
INSERT INTO dgm.system_configurations (id, key, value, value_type, description, category, is_sensitive, encrypted_value, key_id,
    cluster, name, uid, generation, writer_epoch, revision)
VALUES (@id, @key, sqlc.narg('value'), @value_type, NULLIF(@description::text, ''), NULLIF(@category::text, ''), @is_sensitive,
    @encrypted_value, NULLIF(@key_id::text, ''), @cluster, @name, @uid, @generation, @writer_epoch, @revision)
ON CONFLICT (key) DO NOTHING;

-- name: UpdateConfiguration :exec
UPDATE dgm.system_configurations c SET
    value = sqlc.narg('value'), value_type = @value_type, description = NULLIF(@description::text, ''), category = NULLIF(@category::text, ''),
    is_sensitive = @is_sensitive, encrypted_value = @encrypted_value, key_id = NULLIF(@key_id::text, ''),
    default_value = CASE WHEN @is_sensitive THEN NULL ELSE c.default_value END, cluster = @cluster, namespace = NULL, name = @name,
    uid = @uid, generation = @generation, writer_epoch = @writer_epoch, revision = @revision, deleted_at = NULL
WHERE c.key = @key;

-- Rows of a name, but those of keep_uid.
-- name: HeldConfigurations :many
SELECT c.key FROM dgm.system_configurations c
WHERE c.cluster = @cluster::text AND c.name = @name::text AND c.uid IS DISTINCT FROM @keep_uid::text AND c.deleted_at IS NULL ORDER BY c.key;

-- A built-in setting goes on with its default, and is nobody's; another one
-- becomes a tombstone, without what was secret.
-- name: ReleaseConfigurations :exec
UPDATE dgm.system_configurations c SET
    value = CASE WHEN c.is_builtin THEN c.default_value ELSE c.value END, encrypted_value = NULL, key_id = NULL,
    deleted_at = CASE WHEN c.is_builtin THEN NULL ELSE now() END,
    cluster = CASE WHEN c.is_builtin THEN NULL ELSE c.cluster END, name = CASE WHEN c.is_builtin THEN NULL ELSE c.name END,
    uid = CASE WHEN c.is_builtin THEN NULL ELSE c.uid END, generation = CASE WHEN c.is_builtin THEN NULL ELSE c.generation END,
    writer_epoch = @writer_epoch, revision = @revision
WHERE c.cluster = @cluster::text AND c.name = @name::text AND c.uid IS DISTINCT FROM @keep_uid::text AND c.deleted_at IS NULL
  AND (c.writer_epoch, c.revision) <= (@writer_epoch::bigint, @revision::bigint);

-- name: LiveConfigurations :many
SELECT c.name::text AS name, COALESCE(c.uid, '')::text AS uid FROM dgm.system_configurations c
WHERE c.cluster = @cluster::text AND c.deleted_at IS NULL AND c.name > @after_name::text
ORDER BY c.name LIMIT @page_size::integer;

-- Whether any sensitive value is there: if not, the keyset is not even read.
-- name: HasSensitive :one
SELECT EXISTS (SELECT 1 FROM dgm.system_configurations c WHERE c.is_sensitive AND (c.value IS NOT NULL OR c.encrypted_value IS NOT NULL)
    AND COALESCE(c.cluster, @cluster::text) = @cluster::text)::boolean AS has_sensitive;

-- Sensitive values under another key than this one, or in plain from before
-- encryption; but for those, as key/key_id, that could not be decrypted.
-- name: StaleSensitive :many
SELECT c.id, c.key, c.value, c.encrypted_value, COALESCE(c.key_id, '')::text AS key_id FROM dgm.system_configurations c
WHERE c.is_sensitive AND (c.value IS NOT NULL OR (c.encrypted_value IS NOT NULL AND c.key_id <> @key_id::text))
  AND COALESCE(c.cluster, @cluster::text) = @cluster::text AND NOT (concat_ws('/', c.key, c.key_id) = ANY (@without::text[]))
ORDER BY c.key LIMIT @page_size::integer;

-- name: LockStaleSensitive :many
SELECT c.id, c.key, c.value, c.encrypted_value, COALESCE(c.key_id, '')::text AS key_id,
    set_config('dgm.reencryption', 'on', true)::text AS reencryption
FROM dgm.system_configurations c WHERE c.id = ANY (@ids::uuid[]) AND c.is_sensitive ORDER BY c.key FOR UPDATE;

-- name: ReencryptSensitive :exec
UPDATE dgm.system_configurations c SET value = NULL, default_value = NULL, encrypted_value = @encrypted_value, key_id = @key_id::text
WHERE c.id = @id;
