-- name: SettingValues :many
SELECT c.key, c.value::text AS value FROM dgm.system_configurations c
WHERE c.key = ANY (@keys::text[]) AND c.value IS NOT NULL AND c.deleted_at IS NULL;
