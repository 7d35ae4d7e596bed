/* The part of the shared segment (ring.h) that says which writes each forked secondary has.
 *
 * nbdkit numbers the writes in the order in which they have ended on the primary (F2), from 1 on.
 * A secondary that is in the fork gets all writes from `joined` on, in that order. So a number and
 * a few positions say what became of a write there; forks/fork_epochs.py reads them.
 *
 * A forked write (filter.c, forked_writes.c), between W4 and W5 of ring.h:
 *
 *   F1  Before W1: wait until no write that overlaps it is between F1 and F2.
 *   F2  With the lock held, give it the next number, put it into the queue of each secondary that
 *       is in the fork, and do W5. A write that failed on the primary gets number 0: each secondary
 *       misses it.
 *   F3  A thread for each secondary writes what is in its queue, in order, and moves `reached`.
 *   F4  The writer waits for as many secondaries as the mode says (`waits_for`), and returns.
 *
 * Everything here is guarded by `lock`, which nobody holds while it waits for anything. It is
 * robust: if nbdkit is killed with it, the host takes it over.
 *
 * - Only the host lets a secondary in: ml_forks_join() in ring.c. Both sides may put it out. Then
 *   `left` is the first write that it didn't get.
 * - What lies in [busy_from, busy_to) may still take effect, however the call ends. The host names
 *   these writes as missed until the range is empty (docs/decisions/forked-writes.md).
 * - The host flushes. It sets `flushed` to what `reached` was before it began to flush.
 */
#ifndef MIRRORLOG_FORK_STATE_H
#define MIRRORLOG_FORK_STATE_H

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define ML_MOST_FORKS 8

/* Values of `error` besides an errno. */
enum ml_fork_error { ML_FORK_BYTES = 10001, ML_FORK_WRITES = 10002 };

/* is_in: writes that end are queued for it. is_idle: nothing is queued, and no call is running.
 * error: why nbdkit put it out, or 0. file: the number of the file that nbdkit writes to; 0: none.
 */
struct ml_fork {
  _Atomic uint32_t is_in;
  uint32_t is_idle, error, unused;
  uint64_t joined, left, reached, busy_from, busy_to, flushed, queued_bytes, file;
};

/* waits_for: how many secondaries must have a write before it is acknowledged. waits_for_all: all
 * must, so nobody leaves because too much is queued. most_writes: the limit of writes that aren't
 * flushed at a secondary. next: the number of the next write. ends: how many writes did F2.
 */
struct ml_forks {
  pthread_mutex_t lock;
  uint64_t count, waits_for, waits_for_all, limit_bytes, most_writes, next, ends;
  struct ml_fork fork[ML_MOST_FORKS];
};

static inline void
ml_forks_lock (struct ml_forks *forks)
{
  /* nbdkit was killed while it held the lock: it writes nothing any more, and each field is valid
   * by itself. */
  if (pthread_mutex_lock (&forks->lock) == EOWNERDEAD)
    pthread_mutex_consistent (&forks->lock);
}

static inline void
ml_forks_unlock (struct ml_forks *forks)
{
  pthread_mutex_unlock (&forks->lock);
}

/* Put a secondary out of the fork, if it is in. error: why, if nbdkit does it. With the lock. */
static inline void
ml_fork_leave (struct ml_forks *forks, struct ml_fork *fork, uint32_t error)
{
  if (!atomic_load (&fork->is_in))
    return;
  atomic_store (&fork->is_in, 0);
  fork->left = forks->next;
  fork->error = error;
}

#endif
