/* Snapshots as exports: the gate in front of writes, and the snapshots that connections share. */
#ifndef MIRRORLOG_SNAPSHOT_EXPORTS_H
#define MIRRORLOG_SNAPSHOT_EXPORTS_H

#include "ring.h"
#include "snapshot_store.h"

/* mirrorlog/domain/snapshots.py has the names of exports and the texts of descriptions. */
#define ML_SNAPSHOT_EXPORT "mirrorlog-snapshot/"
#define ML_HOLD_EXPORT "mirrorlog-hold/"

/* Whether the gate is closed, and twice the number of snapshots. A write looks at it once, after
 * the fence in ml_begin(), and isn't in flight if the gate is closed.
 */
#define ML_GATE_CLOSED 1u
extern _Atomic uint32_t ml_gate;

struct ml_snapshot;

/* Let snapshots be taken. store: NULL if there are none. */
void ml_snapshots_start (struct ml_ring *ring, struct ml_store *store);

/* Wait until the gate is open. */
void ml_wait_at_gate (void);

/* Keep what a write of this range is about to overwrite. Call it if ml_gate wasn't 0. */
void ml_snapshots_keep (uint64_t offset, uint64_t length, ml_read_primary *read_primary,
                        void *context);

/* Return the snapshot with this token, and take it unless another connection has it open. Return
 * NULL and set *problem if that can't be done.
 * is_hold: return as soon as it is taken, and let no write begin until it is released. No other
 * connection may have it open. Otherwise wait until its position is known.
 */
struct ml_snapshot *ml_snapshot_open (const char *token, int is_hold, const char **problem);

/* Let writes begin again, if the snapshot holds them. Return 0, or ESTALE if some may have begun
 * since it was taken as a hold, and before this call.
 */
int ml_snapshot_release (struct ml_snapshot *snapshot);

/* Close it. The last connection's snapshot is released and dropped. */
void ml_snapshot_close (struct ml_snapshot *snapshot);

/* Return the description of the snapshot's export. */
const char *ml_snapshot_description (const struct ml_snapshot *snapshot);

/* Call ml_store_read() for it. */
int ml_snapshot_read (struct ml_snapshot *snapshot, uint64_t offset, uint64_t length, void *buf);

/* Call ml_store_unchanged() for it. */
uint64_t ml_snapshot_unchanged (struct ml_snapshot *snapshot, uint64_t offset, uint64_t length);

#endif
