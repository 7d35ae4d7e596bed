/* The memory that nbdkit, which writes to the primary, shares with the host, which tracks what is written.
 *
 * Two processes, one segment (a memfd): a header, a ring of slots, one byte for each region of the volume. nbdkit's
 * threads are the writers; the host is one thread at a time (it holds its lock). The ring is the list of writes that
 * have begun and that the host hasn't taken yet; a slot in it is also what keeps a region from cooling under a write.
 *
 * A write (filter.c), the same order as TrackedVolume's:
 *
 *   W1  Claim the next position of the ring; where the ring is full, wait.
 *   W2  Fill the slot, then say IN_FLIGHT. From now on whatever batch closes names the write.
 *   W3  Full fence. Then look whether all its regions are hot and the volume hasn't failed. Where a region isn't hot, ask
 *       the host and wait for its word; where it says no, say VOID: nothing was touched.
 *   W4  The data goes to the primary.
 *   W5  Say ENDED, well or not.
 *
 * The host makes a region hot:
 *
 *   H1  The region is durable in the activity log.
 *   H2  Its byte says hot. Who waits is told.
 *
 * The host takes a region back:
 *
 *   C1  Its byte says cold. Full fence.
 *   C2  Read `head`. Until `tail` gets there, the region stays in the activity log whatever else is known of it.
 *   C3  From then on no write of nbdkit's is in it that the host doesn't know: it leaves the activity log once what it
 *       holds is acknowledged and durable.
 *
 * The host closes a batch:
 *
 *   B1  Collect: each slot that is ENDED is taken, each that is IN_FLIGHT is named and stays.
 *   B2  The command leaves, before the lock is let go.
 *
 * Why no write slips through.
 * - Invariant 1, W1 to W4 against C1 to C3: a store, a full fence and a load on either side (Dekker). Of the two fences
 *   one comes first (C11 7.17.3, paragraph 11). If W3's, then the host sees the claim of W1 at C2, and waits until the slot
 *   was taken. If C1's, then the writer sees cold at W3, and asks.
 * - Hot is read with acquire and written with release, after the activity log was synced: who sees hot writes to a region
 *   that is durable there.
 * - Invariant 8: whose data a site can have read has said IN_FLIGHT, behind a fence, before. A position claimed whose slot
 *   isn't filled yet is passed over: its data isn't on its way. The host takes a slot once; it is free for the next lap
 *   only when `tail` has passed it, and the writer of that lap has seen `tail` (W1, acquire; release).
 * - kill -9 of nbdkit: the slots are still here. The host waits for the end of the process, so no system call of it is
 *   under way, then takes what is IN_FLIGHT as ended. kill -9 of the host: whatever nbdkit still does, it does in regions
 *   that the activity log names, and the next host can't begin while nbdkit holds the lock of the state folder.
 */
#ifndef MIRRORLOG_RING_H
#define MIRRORLOG_RING_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>

#define ML_MAGIC UINT64_C(0x31474e49524c4d)  /* "MLRING1" */

enum ml_kind { ML_WRITE = 0, ML_ZERO = 1, ML_DISCARD = 2 };  /* mirrorlog.extents.ExtentKind */
enum ml_state { ML_FREE = 0, ML_IN_FLIGHT, ML_ENDED, ML_VOID, ML_TAKEN };

struct ml_slot {
  _Atomic uint32_t state;
  uint32_t kind;
  uint64_t offset, length, at_us;
  uint64_t unused[4];  /* one cache line each */
};

struct ml_ring {
  uint64_t magic, slots, region_bytes, size_bytes, max_write_bytes, regions, notify_every, unused;
  _Alignas (64) _Atomic uint64_t head;    /* positions claimed */
  _Alignas (64) _Atomic uint64_t tail;    /* positions that are free again: none below is in use */
  _Alignas (64) _Atomic uint32_t failed;  /* no write begins any more: an errno */
  _Alignas (64) struct ml_slot slot[];    /* `slots` of them, a power of two; then one byte for each region */
};

struct ml_extent {
  uint64_t offset, length, at_us, kind;
};

/* What nbdkit asks, and what the host answers, over a socket of packets. */
enum ml_message_kind { ML_NOTIFY = 0, ML_REQUEST_GRANT = 1 };
struct ml_message {
  uint32_t what;   /* ml_message_kind; in an answer 0 or an errno */
  uint32_t unused;
  uint64_t position;
  uint64_t offset, length;  /* of the write that waits */
};

static inline struct ml_slot *
ml_slot (struct ml_ring *ring, uint64_t position)
{
  return &ring->slot[position & (ring->slots - 1)];
}

static inline _Atomic uint8_t *
ml_granted (struct ml_ring *ring, uint64_t region)
{
  return (_Atomic uint8_t *) &ring->slot[ring->slots] + region;
}

/* W1 and W2, with W3's fence. 0, or EAGAIN where the ring is full. */
static inline int
ml_begin (struct ml_ring *ring, uint32_t kind, uint64_t offset, uint64_t length, uint64_t at_us, uint64_t *position)
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
  atomic_store_explicit (&slot->state, ML_IN_FLIGHT, memory_order_release);
  atomic_thread_fence (memory_order_seq_cst);
  *position = head;
  return 0;
}

/* W3's look: whether the data may be written now. */
static inline int
ml_may_write (struct ml_ring *ring, uint64_t offset, uint64_t length)
{
  uint64_t region = offset / ring->region_bytes, last = (offset + length - 1) / ring->region_bytes;

  for (; region <= last; region++)
    if (!atomic_load_explicit (ml_granted (ring, region), memory_order_acquire))
      return 0;
  return 1;
}

/* W5, or VOID. A zero or a discard that failed left nobody knows what: a write. */
static inline void
ml_end (struct ml_ring *ring, uint64_t position, uint32_t state, uint32_t kind)
{
  struct ml_slot *slot = ml_slot (ring, position);

  slot->kind = kind;
  atomic_store_explicit (&slot->state, state, memory_order_release);
}

#endif
