-- Hints need not survive a crash, so that nobody waits for the disk.
-- name: NotifyEvents :exec
SELECT pg_notify('dgm_events', e.payload), set_config('synchronous_commit', 'off', true)
FROM (SELECT unnest(@payloads::text[]) AS payload) e;

-- name: Listen :exec
LISTEN dgm_events;
