-- name: ReplicaState :one
SELECT r.system_identifier::text AS system_identifier, r.in_recovery::boolean AS in_recovery, r.replayed::bigint AS replayed,
    r.same_fence::boolean AS same_fence
FROM dgm.replica_state(@cluster::text, @epoch::bigint, @token::uuid) r;
