/* The functions that ring.py and ring_forks.py call: the host's side of ring.h and fork_state.h,
 * and the writer's side of ring.h for tests.
 */
#define _GNU_SOURCE
#include "ring.h"

/* The writer's side. See ring.h. */
int
ml_ring_begin (struct ml_ring *ring, uint32_t kind, uint64_t offset, uint64_t length,
               uint64_t at_us, uint64_t *position)
{
  return ml_begin (ring, kind, offset, length, at_us, position);
}

int
ml_ring_may_write (struct ml_ring *ring, uint64_t offset, uint64_t length)
{
  return ml_may_write (ring, offset, length);
}

int
ml_ring_clear_markers (struct ml_ring *ring, uint64_t offset, uint64_t length)
{
  return ml_clear_markers (ring, offset, length);
}

void
ml_ring_end (struct ml_ring *ring, uint64_t position, uint32_t state, uint32_t kind)
{
  ml_end (ring, position, state, kind);
}

/* G2. Call it after the regions are durable in the activity log. marked: one of them, or any other
 * number for none.
 */
void
ml_ring_grant (struct ml_ring *ring, const uint64_t *regions, uint64_t count, uint64_t marked)
{
  for (uint64_t i = 0; i < count; i++)
    atomic_store_explicit (ml_granted (ring, regions[i]),
                           regions[i] == marked ? ML_MARKED : ML_GRANTED, memory_order_release);
}

/* R1 and R2. Return the position that `tail` must reach before R3. */
uint64_t
ml_ring_revoke (struct ml_ring *ring, const uint64_t *regions, uint64_t count)
{
  for (uint64_t i = 0; i < count; i++)
    atomic_store_explicit (ml_granted (ring, regions[i]), ML_NOT_GRANTED, memory_order_relaxed);
  atomic_thread_fence (memory_order_seq_cst);
  return atomic_load_explicit (&ring->head, memory_order_relaxed);
}

/* Return the position below which the host has freed all slots. */
uint64_t
ml_ring_tail (struct ml_ring *ring)
{
  return atomic_load_explicit (&ring->tail, memory_order_relaxed);
}

/* Let no further write begin. `code` is an errno. */
void
ml_ring_fail (struct ml_ring *ring, uint32_t code)
{
  atomic_store_explicit (&ring->failed, code, memory_order_seq_cst);
}

/* Return the errno with which the volume has failed, or 0. */
uint32_t
ml_ring_failed (struct ml_ring *ring)
{
  return atomic_load_explicit (&ring->failed, memory_order_seq_cst);
}

/* Return 1 if a position is claimed that the host hasn't freed. */
int
ml_ring_has_writes (struct ml_ring *ring)
{
  return atomic_load_explicit (&ring->head, memory_order_acquire)
         != atomic_load_explicit (&ring->tail, memory_order_relaxed);
}

/* Return the extent of a slot, with the given kind. */
static struct ml_extent
extent_of (const struct ml_slot *slot, uint64_t kind)
{
  return (struct ml_extent){ slot->offset, slot->length, slot->at_us, kind, slot->forked };
}

/* B1. Take the ended slots into `ended` and copy the slots in flight into `in_flight`. Both arrays
 * have room for `slots` extents. Then move `tail` past the slots that were taken.
 * orphaned: the writers are dead, so their writes in flight have ended.
 */
void
ml_ring_collect (struct ml_ring *ring, int orphaned, struct ml_extent *ended, uint64_t *ended_count,
                 struct ml_extent *in_flight, uint64_t *in_flight_count)
{
  uint64_t tail = atomic_load_explicit (&ring->tail, memory_order_relaxed);
  uint64_t head = atomic_load_explicit (&ring->head, memory_order_acquire);
  int blocked = 0;  /* Whether a slot before this one is still in use. */

  *ended_count = *in_flight_count = 0;
  for (uint64_t position = tail; position != head; position++) {
    struct ml_slot *slot = ml_slot (ring, position);
    uint32_t state = atomic_load_explicit (&slot->state, memory_order_acquire);

    /* A zero or a discard in flight may leave any data, so it counts as a write. */
    if (state == ML_IN_FLIGHT && !orphaned)
      in_flight[(*in_flight_count)++] = extent_of (slot, ML_WRITE);
    else if (state == ML_IN_FLIGHT || state == ML_ENDED)
      ended[(*ended_count)++] = extent_of (slot, state == ML_ENDED ? slot->kind : ML_WRITE);
    if (state == ML_ENDED || state == ML_VOID || (state == ML_IN_FLIGHT && orphaned))
      state = ML_TAKEN;
    if (state == ML_TAKEN && !blocked) {
      atomic_store_explicit (&slot->state, ML_FREE, memory_order_relaxed);
      tail = position + 1;
    } else {
      blocked = 1;
      if (state == ML_TAKEN)
        atomic_store_explicit (&slot->state, ML_TAKEN, memory_order_relaxed);
    }
  }
  atomic_store_explicit (&ring->tail, tail, memory_order_release);
}

/* Return the size of the segment's header: where the slots begin. */
uint64_t
ml_ring_header_bytes (void)
{
  return sizeof (struct ml_ring);
}

/* Prepare the forks of a new ring, before nbdkit starts. The arguments are fields of ml_forks.
 * Return 0 or an errno.
 */
int
ml_ring_fork (struct ml_ring *ring, uint64_t count, uint64_t waits_for, uint64_t waits_for_all,
              uint64_t limit_bytes, uint64_t most_writes)
{
  struct ml_forks *forks = &ring->forks;
  pthread_mutexattr_t attributes;
  int code;

  if (count > ML_MOST_FORKS)
    return EINVAL;
  pthread_mutexattr_init (&attributes);
  pthread_mutexattr_setpshared (&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust (&attributes, PTHREAD_MUTEX_ROBUST);
  code = pthread_mutex_init (&forks->lock, &attributes);
  pthread_mutexattr_destroy (&attributes);
  forks->waits_for = waits_for;
  forks->waits_for_all = waits_for_all;
  forks->limit_bytes = limit_bytes;
  forks->most_writes = most_writes;
  forks->next = 1;
  forks->count = count;
  return code;
}

/* Return how many writes have ended (F2). A collect after it takes all of these. */
uint64_t
ml_forks_ends (struct ml_ring *ring)
{
  uint64_t ends;

  ml_forks_lock (&ring->forks);
  ends = ring->forks.ends;
  ml_forks_unlock (&ring->forks);
  return ends;
}

/* Copy the state of a secondary, and set *next. */
void
ml_forks_look (struct ml_ring *ring, uint64_t index, struct ml_fork *copy, uint64_t *next)
{
  ml_forks_lock (&ring->forks);
  *copy = ring->forks.fork[index];
  *next = ring->forks.next;
  ml_forks_unlock (&ring->forks);
}

/* Let a secondary into the fork. ends: no more writes than these may have ended; UINT64_MAX for any
 * number. Return 1, or 0 if it can't join now: more have ended, or it has no file, or is busy.
 */
int
ml_forks_join (struct ml_ring *ring, uint64_t index, uint64_t ends)
{
  struct ml_forks *forks = &ring->forks;
  struct ml_fork *fork = &forks->fork[index];
  int may;

  ml_forks_lock (forks);
  may = fork->file && fork->is_idle && !atomic_load (&fork->is_in)
        && (ends == UINT64_MAX || ends == forks->ends);
  if (may) {
    fork->error = 0;
    fork->joined = fork->reached = fork->flushed = forks->next;
    atomic_store (&fork->is_in, 1);
  }
  ml_forks_unlock (forks);
  return may;
}

/* Put a secondary out of the fork, if it is in. */
void
ml_forks_leave (struct ml_ring *ring, uint64_t index)
{
  ml_forks_lock (&ring->forks);
  ml_fork_leave (&ring->forks, &ring->forks.fork[index], 0);
  ml_forks_unlock (&ring->forks);
}

/* Note that a secondary has all its writes below `number` durably. */
void
ml_forks_flushed (struct ml_ring *ring, uint64_t index, uint64_t number)
{
  ml_forks_lock (&ring->forks);
  ring->forks.fork[index].flushed = number;
  ml_forks_unlock (&ring->forks);
}
