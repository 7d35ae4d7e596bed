/* Snapshots of the primary: the old contents of blocks that are overwritten (copy before write).
 *
 * A snapshot is the primary as it was at one moment. It exists only while somebody reads it. A
 * writer copies what it is about to overwrite to the store, unless all snapshots have those blocks:
 *
 *   K1  With the lock held, find the blocks that a snapshot lacks, and mark them PENDING there. If
 *       another writer has marked one of them, wait until that writer is at K4.
 *   K2  Read the old contents from the primary.
 *   K3  Write them to the store: to its memory, or to its file when the memory is full.
 *   K4  With the lock held, mark the blocks KEPT. The writer may overwrite them from now on.
 *
 * A reader of a snapshot:
 *
 *   S1  Read the range from the primary.
 *   S2  With the lock held, look up each block. What is KEPT replaces what was read. What isn't, or
 *       is PENDING, was still old at S1: its writer is at K4 at the earliest after S2.
 *
 * If there is no room for a block, or its old contents can't be read or written, the snapshots that
 * lack it break before it is overwritten. A reader of a broken snapshot gets an error at S2, and
 * never newer data. A write never fails because of a snapshot.
 *
 * Several snapshots share one copy of a block, if none of its writes lies between them.
 */
#ifndef MIRRORLOG_SNAPSHOT_STORE_H
#define MIRRORLOG_SNAPSHOT_STORE_H

#include <stdint.h>

#define ML_KEPT_BYTES 4096  /* The unit in which old contents are kept. */
#define ML_SNAPSHOTS 8      /* At most as many snapshots exist at a time. */

struct ml_store;

/* Read `count` bytes at `offset` of the primary to `buf`. Return 0, or -1. */
typedef int ml_read_primary (void *context, void *buf, uint32_t count, uint64_t offset);

/* Create a store without snapshots. Return NULL if there is no memory.
 * size_bytes: of the volume. memory_bytes, file_bytes: how much may be kept in memory, and in the
 * file `fd`; -1 for no file. Both are rounded down to units.
 */
struct ml_store *ml_store_new (uint64_t size_bytes, uint64_t memory_bytes, int fd,
                               uint64_t file_bytes);

/* Free the store. Nobody uses it any more. */
void ml_store_free (struct ml_store *store);

/* Take a snapshot. Return its number, or -1 if there are ML_SNAPSHOTS.
 * No write may be in progress: none is between the call of ml_store_keep() and its end.
 */
int ml_store_take (struct ml_store *store);

/* Forget a snapshot, and free what only that one needs. Nobody reads it any more. */
void ml_store_drop (struct ml_store *store, int snapshot);

/* K1 to K4 for a write of [offset, offset + length), which is about to begin. `length` is at
 * least 1.
 */
void ml_store_keep (struct ml_store *store, uint64_t offset, uint64_t length,
                    ml_read_primary *read_primary, void *context);

/* S2 for [offset, offset + length), which was just read from the primary to `buf`. Return 0, or an
 * errno if the snapshot is broken: ENOSPC if the store was full, EIO otherwise.
 */
int ml_store_read (struct ml_store *store, int snapshot, uint64_t offset, uint64_t length,
                   void *buf);

/* Return how many of the `length` bytes from `offset` on no write has changed since the snapshot, or
 * is about to change. If the primary said before the call that they are zeros, then they are zeros
 * in the snapshot. 0 if it is broken.
 */
uint64_t ml_store_unchanged (struct ml_store *store, int snapshot, uint64_t offset,
                             uint64_t length);

/* Return 0, or the errno with which the snapshot is broken. */
int ml_store_broken (struct ml_store *store, int snapshot);

/* Return how many units the store keeps now. */
uint64_t ml_store_used (struct ml_store *store);

#endif
