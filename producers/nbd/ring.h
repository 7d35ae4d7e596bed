/* The shared memory in which nbdkit records its writes to the primary, for the host to track.
 *
 * nbdkit and the host share one segment (a memfd). It holds a header, a ring of slots, and one
 * byte for each region of the volume. nbdkit's threads are the writers. The host uses the segment
 * from one thread at a time, with its lock held. The ring lists the writes that have begun and
 * that the host hasn't collected. A slot in the ring also keeps the regions of its write in the
 * activity log.
 *
 * A region is granted while nbdkit may begin writes in it without asking the host. It can be granted
 * with a marker. The first write in it then clears the marker, and lets the host grant the regions
 * behind before a write comes to them.
 *
 * nbdkit writes (filter.c) in the same order as TrackedVolume does:
 *
 *   W1  Claim the next position of the ring. If the ring is full, wait.
 *   W2  Fill in the slot, then set its state to IN_FLIGHT. From now on each batch that the host
 *       closes names the write.
 *   W3  Issue a full fence. Then check that all regions of the write are granted and that the
 *       volume hasn't failed. If a region isn't granted, ask the host and wait for its answer. If
 *       the host refuses, set the slot's state to VOID and touch no data. If a region is marked,
 *       clear its marker and tell the host; don't wait.
 *   W4  Write the data to the primary.
 *   W5  Set the slot's state to ENDED, whether the write succeeded or not.
 *
 * The host grants a region:
 *
 *   G1  Make the region durable in the activity log.
 *   G2  Set the region's byte to GRANTED or MARKED. Then answer the writers that wait for it.
 *
 * The host revokes a region:
 *
 *   R1  Set the region's byte to NOT_GRANTED. Issue a full fence.
 *   R2  Read `head`. Until `tail` reaches that position, the region stays in the activity log,
 *       whatever else the host knows of it.
 *   R3  From then on the host knows all of nbdkit's writes in the region. The region leaves the
 *       activity log when its writes are acknowledged and durable.
 *
 * The host closes a batch:
 *
 *   B1  Collect: take each slot that is ENDED. Name each slot that is IN_FLIGHT, and leave it.
 *   B2  Publish the command before the lock is released.
 *
 * Why no write is missed:
 * - Invariant 1, W1 to W4 against R1 to R3: each side does a store, a full fence and a load
 *   (Dekker's algorithm). One of the two fences comes first (C11 7.17.3, paragraph 11). If W3's
 *   fence is first, the host sees W1's claim at R2, and waits until that slot is taken. If R1's
 *   fence is first, the writer sees at W3 that the region isn't granted, and asks.
 * - A region's byte is read with acquire and written with release, and it is set after the
 *   activity log was synced. A writer that sees the grant writes to a region that is durable in
 *   the log.
 * - Invariant 8: a write whose data a site can have read has set IN_FLIGHT before, and a fence
 *   lies in between. A position that is claimed and whose slot isn't filled in yet is skipped,
 *   because its data isn't written yet. The host takes each slot once. A slot is free for the
 *   next lap only when `tail` has passed it, and the writer of that lap has seen `tail` (acquire
 *   in W1, release by the host).
 * - kill -9 of nbdkit: the slots remain in the host's memory. The host waits until the process
 *   has ended, so no system call of it is running. Then it takes the slots that are IN_FLIGHT as
 *   ended.
 * - kill -9 of the host: nbdkit writes only in regions that the activity log names, and the next
 *   host can't start while nbdkit holds the lock of the state folder.
 */
#ifndef MIRRORLOG_RING_H
#define MIRRORLOG_RING_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>

#include "fork_state.h"

#define ML_MAGIC UINT64_C(0x33474e49524c4d)  /* "MLRING3" */

/* The values of mirrorlog.domain.extents.ExtentKind. */
enum ml_kind { ML_WRITE = 0, ML_ZERO = 1, ML_DISCARD = 2 };
enum ml_grant { ML_NOT_GRANTED = 0, ML_GRANTED, ML_MARKED };
enum ml_state { ML_FREE = 0, ML_IN_FLIGHT, ML_ENDED, ML_VOID, ML_TAKEN };

struct ml_slot {
  _Atomic uint32_t state;
  uint32_t kind;
  uint64_t offset, length, at_us;
  uint64_t forked;     /* Its number among the forked writes (fork_state.h); 0: it has none. */
  uint64_t unused[3];  /* Pad the slot to one cache line. */
};

struct ml_ring {
  uint64_t magic, slots, region_bytes, size_bytes, max_write_bytes, regions, notify_every, unused;
  _Alignas (64) _Atomic uint64_t head;    /* Writers have claimed all positions below. */
  _Alignas (64) _Atomic uint64_t tail;    /* The host has freed all positions below. */
  _Alignas (64) _Atomic uint32_t failed;  /* An errno if the volume has failed: no write begins. */
  _Alignas (64) struct ml_forks forks;    /* `count` is 0 if the volume has no forks. */
  _Alignas (64) struct ml_slot slot[];    /* `slots` of them, a power of two. One byte for each
                                             region follows, an ml_grant. */
};

struct ml_extent {
  uint64_t offset, length, at_us, kind, forked;
};

/* A message from nbdkit to the host, or the host's answer, over a SOCK_SEQPACKET socket.
 * ML_NOTIFY asks the host to collect, and has no answer. ML_REQUEST_GRANT asks the host to grant
 * the regions of the write at `position`; the answer has the same position.
 * Answers that are sent together are one packet.
 * ML_GRANT_AHEAD says that the write at `position` has cleared a marker. It has no answer.
 * ML_CLOSE_BATCH asks the host to collect and to send the open batch, for a snapshot
 * (snapshot_exports.c). Its position isn't one of the ring: it is ML_SNAPSHOT_POSITION and twice a
 * number. It has an answer with that position when the batch is on its way, and one with the next
 * position when Kafka has it. The second one is followed by a text of less than ML_TEXT_BYTES.
 * ML_FLUSH_FORKS asks the host to flush the secondaries that the mode waits for. Its position is
 * ML_FLUSH_POSITION and a number; the answer, with that position, comes when they are flushed.
 * The host sends one message by itself: at ML_FILE_POSITION and the index of a secondary, with a
 * descriptor, `offset` is the number of the file that nbdkit shall write to. Without a descriptor,
 * nbdkit closes the file that it has.
 */
#define ML_SNAPSHOT_POSITION (UINT64_C (1) << 63)
#define ML_FLUSH_POSITION (UINT64_C (1) << 62)
#define ML_FILE_POSITION (UINT64_C (1) << 61)
#define ML_TEXT_BYTES 1024
#define ML_MOST_ANSWERS 64
enum ml_message_kind {
  ML_NOTIFY = 0, ML_REQUEST_GRANT = 1, ML_CLOSE_BATCH = 2, ML_FLUSH_FORKS = 3, ML_GRANT_AHEAD = 4
};
struct ml_message {
  uint32_t what;   /* An ml_message_kind; in an answer, 0 or an errno. */
  uint32_t more;   /* How many further answers the packet holds, up to ML_MOST_ANSWERS in all. */
  uint64_t position;
  uint64_t offset, length;  /* The range of the write. */
};

/* Return the slot of a position. */
static inline struct ml_slot *
ml_slot (struct ml_ring *ring, uint64_t position)
{
  return &ring->slot[position & (ring->slots - 1)];
}

/* Return the byte of a region, an ml_grant. */
static inline _Atomic uint8_t *
ml_granted (struct ml_ring *ring, uint64_t region)
{
  return (_Atomic uint8_t *) &ring->slot[ring->slots] + region;
}

/* W1, W2 and W3's fence. Return 0 and set *position, or return EAGAIN if the ring is full.
 * offset, length: bytes of the volume; at_us: microseconds since 1970.
 */
static inline int
ml_begin (struct ml_ring *ring, uint32_t kind, uint64_t offset, uint64_t length, uint64_t at_us,
          uint64_t *position)
{
  uint64_t head = atomic_load_explicit (&ring->head, memory_order_relaxed);
  struct ml_slot *slot;

  do
    if (head - atomic_load_explicit (&ring->tail, memory_order_acquire) >= ring->slots)
      return EAGAIN;
  while (!atomic_compare_exchange_weak_explicit (&ring->head, &head, head + 1,
                                                 memory_order_relaxed, memory_order_relaxed));
  slot = ml_slot (ring, head);
  slot->kind = kind;
  slot->offset = offset;
  slot->length = length;
  slot->at_us = at_us;
  slot->forked = 0;
  atomic_store_explicit (&slot->state, ML_IN_FLIGHT, memory_order_release);
  atomic_thread_fence (memory_order_seq_cst);
  *position = head;
  return 0;
}

/* W3's check. Return 1 if all regions of the range are granted. `length` is at least 1. */
static inline int
ml_may_write (struct ml_ring *ring, uint64_t offset, uint64_t length)
{
  uint64_t region = offset / ring->region_bytes, last = (offset + length - 1) / ring->region_bytes;

  for (; region <= last; region++)
    if (!atomic_load_explicit (ml_granted (ring, region), memory_order_acquire))
      return 0;
  return 1;
}

/* W3's markers. Clear those of a range that is granted. Return 1 if there was one. */
static inline int
ml_clear_markers (struct ml_ring *ring, uint64_t offset, uint64_t length)
{
  uint64_t region = offset / ring->region_bytes, last = (offset + length - 1) / ring->region_bytes;
  int found = 0;

  for (; region <= last; region++) {
    uint8_t marked = ML_MARKED;

    /* The region may have been revoked meanwhile. Then it stays so. */
    if (atomic_load_explicit (ml_granted (ring, region), memory_order_relaxed) == ML_MARKED
        && atomic_compare_exchange_strong_explicit (ml_granted (ring, region), &marked, ML_GRANTED,
                                                    memory_order_relaxed, memory_order_relaxed))
      found = 1;
  }
  return found;
}

/* W5 with ML_ENDED, or ML_VOID if no data was touched. A zero or a discard that failed may have
 * left any data: pass ML_WRITE for it.
 */
static inline void
ml_end (struct ml_ring *ring, uint64_t position, uint32_t state, uint32_t kind)
{
  struct ml_slot *slot = ml_slot (ring, position);

  slot->kind = kind;
  atomic_store_explicit (&slot->state, state, memory_order_release);
}

#endif
