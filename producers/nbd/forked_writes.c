/* See forked_writes.h and fork_state.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "forked_writes.h"

#define AT_ONCE 64     /* A secondary's thread takes so many writes from its queue at once. */
#define LOOK_MS 50     /* How often one that waits looks whether the host put a secondary out. */
#define ZEROS (64 << 10)
#define BELLS 64       /* A power of two. */

/* The data of a write. Queues share it. */
struct content {
  _Atomic unsigned users;
  char bytes[];
};

/* A write in a queue. content: NULL writes zeros. */
struct entry {
  uint64_t number, offset;
  uint32_t length;
  struct content *content;
  struct entry *next;
};

/* The queue of one secondary. Everything is guarded by the lock of fork_state.h. */
struct queue {
  struct ml_fork *fork;
  int fd;
  struct entry *first, **end;
  pthread_cond_t filled;
};

static struct ml_ring *ring;
static struct ml_forks *forks;
static struct queue queues[ML_MOST_FORKS];

/* The writer of number n waits for the bell n % BELLS, so that it alone wakes up when a secondary
 * has its write. waiters: how many threads wait, guarded by the lock.
 */
static pthread_cond_t bells[BELLS];
static unsigned waiters;

static pthread_mutex_t ranges_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t range_left = PTHREAD_COND_INITIALIZER;
static struct ml_range *ranges;
static unsigned range_waiters;

void
ml_range_enter (struct ml_range *range)
{
  struct ml_range *other;

  if (!forks)
    return;
  pthread_mutex_lock (&ranges_lock);
  for (;;) {
    for (other = ranges; other; other = other->next)
      if (range->offset < other->end && other->offset < range->end)
        break;
    if (!other)
      break;
    range_waiters++;
    pthread_cond_wait (&range_left, &ranges_lock);
    range_waiters--;
  }
  range->next = ranges;
  ranges = range;
  pthread_mutex_unlock (&ranges_lock);
}

void
ml_range_leave (struct ml_range *range)
{
  if (!forks)
    return;
  pthread_mutex_lock (&ranges_lock);
  for (struct ml_range **at = &ranges; *at; at = &(*at)->next)
    if (*at == range) {
      *at = range->next;
      break;
    }
  if (range_waiters)
    pthread_cond_broadcast (&range_left);
  pthread_mutex_unlock (&ranges_lock);
}

/* Give up one use of content. */
static void
release (struct content *content)
{
  if (content && atomic_fetch_sub (&content->users, 1) == 1)
    free (content);
}

/* Free entries, and their content if no other queue has it. */
static void
free_entries (struct entry *entry)
{
  while (entry) {
    struct entry *next = entry->next;
    release (entry->content);
    free (entry);
    entry = next;
  }
}

/* Write all of a range. Return 0 or an errno. */
static int
write_all (int fd, const char *data, uint32_t length, uint64_t offset)
{
  while (length) {
    ssize_t count = pwrite (fd, data, length, (off_t) offset);
    if (count < 0 && errno == EINTR)
      continue;
    if (count <= 0)
      return count ? errno : EIO;
    data += count;
    length -= (uint32_t) count;
    offset += (uint64_t) count;
  }
  return 0;
}

/* Make a range read as zeros: as a hole, or by zeros that are written. Return 0 or an errno. */
static int
write_zeros (int fd, uint32_t length, uint64_t offset)
{
  static const char zeros[ZEROS];
  int code = 0;

  do
    if (fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t) offset, length) == 0)
      return 0;
  while (errno == EINTR);
  if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
    return errno;
  for (uint32_t done = 0, part; done < length && code == 0; done += part) {
    part = length - done < ZEROS ? length - done : ZEROS;
    code = write_all (fd, zeros, part, offset + done);
  }
  return code;
}

/* Cut up to AT_ONCE entries from the front of a queue. Return the last one. With the lock. */
static struct entry *
take (struct queue *queue)
{
  struct entry *last = queue->first;

  for (unsigned count = 1; count < AT_ONCE && last->next; count++)
    last = last->next;
  queue->first = last->next;
  if (!queue->first)
    queue->end = &queue->first;
  last->next = NULL;
  return last;
}

/* Wait for a condition, LOOK_MS at most. With the lock. */
static void
wait_a_moment (pthread_cond_t *condition)
{
  struct timespec until;

  clock_gettime (CLOCK_REALTIME, &until);
  until.tv_nsec += LOOK_MS * 1000000;
  until.tv_sec += until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  if (pthread_cond_timedwait (condition, &forks->lock, &until) == EOWNERDEAD)
    pthread_mutex_consistent (&forks->lock);
}

/* Write entries of a queue to the secondary, until one fails or the secondary is out of the fork.
 * Return how far it came: the entry behind the last one written, or NULL. Without the lock.
 */
static struct entry *
write_entries (struct queue *queue, struct entry *entry, int *code)
{
  for (*code = 0; entry && atomic_load (&queue->fork->is_in); entry = entry->next) {
    *code = entry->content
            ? write_all (queue->fd, entry->content->bytes, entry->length, entry->offset)
            : write_zeros (queue->fd, entry->length, entry->offset);
    if (*code)
      break;
  }
  return entry;
}

/* F3, for one secondary, for ever. While it isn't idle it can't join, so all that is queued is of
 * the time since it joined last.
 */
static void *
write_queue (void *argument)
{
  struct queue *queue = argument;
  struct ml_fork *fork = queue->fork;
  int code;

  ml_forks_lock (forks);
  for (;;) {
    struct entry *first, *last, *stopped;
    if (!atomic_load (&fork->is_in)) {
      free_entries (queue->first);
      queue->first = NULL;
      queue->end = &queue->first;
      fork->queued_bytes = 0;
    }
    if (!queue->first) {
      fork->is_idle = 1;
      if (pthread_cond_wait (&queue->filled, &forks->lock) == EOWNERDEAD)
        pthread_mutex_consistent (&forks->lock);
      continue;
    }
    first = queue->first;
    last = take (queue);
    fork->busy_from = first->number;
    fork->busy_to = last->number + 1;
    ml_forks_unlock (forks);
    stopped = write_entries (queue, first, &code);
    ml_forks_lock (forks);
    fork->busy_from = fork->busy_to = 0;
    for (struct entry *entry = first; entry != stopped; entry = entry->next) {
      fork->queued_bytes -= entry->length;
      if (atomic_load (&fork->is_in))
        fork->reached = entry->number + 1;
    }
    if (code)
      ml_fork_leave (forks, fork, (uint32_t) code);
    if (waiters)
      for (struct entry *entry = first; entry; entry = entry->next)
        pthread_cond_broadcast (&bells[entry->number % BELLS]);
    ml_forks_unlock (forks);
    free_entries (first);
    ml_forks_lock (forks);
  }
  return NULL;
}

int
ml_forked_start (struct ml_ring *ring_)
{
  int code = 0;

  ring = ring_;
  if (ring->forks.count == 0)
    return 0;
  forks = &ring->forks;
  for (unsigned i = 0; i < BELLS; i++)
    pthread_cond_init (&bells[i], NULL);
  for (uint64_t i = 0; i < forks->count && code == 0; i++) {
    pthread_t thread;
    queues[i].fork = &forks->fork[i];
    queues[i].fd = -1;
    queues[i].end = &queues[i].first;
    /* The host may send a file before the thread runs. */
    forks->fork[i].is_idle = 1;
    pthread_cond_init (&queues[i].filled, NULL);
    code = pthread_create (&thread, NULL, write_queue, &queues[i]);
    if (code == 0)
      pthread_detach (thread);
  }
  return code;
}

void
ml_forked_drain (unsigned most_ms)
{
  if (!forks)
    return;
  ml_forks_lock (forks);
  for (unsigned i = 0, ms = 0; i < forks->count && ms < most_ms; i += forks->fork[i].is_idle)
    if (!forks->fork[i].is_idle) {
      wait_a_moment (&bells[0]);
      ms += LOOK_MS;
    }
  ml_forks_unlock (forks);
}

void
ml_forked_file (uint64_t index, uint64_t number, int fd)
{
  int old = -1;

  if (forks && index < forks->count) {
    ml_forks_lock (forks);
    if (forks->fork[index].is_idle && !atomic_load (&forks->fork[index].is_in)) {
      old = queues[index].fd;
      queues[index].fd = fd;
      forks->fork[index].file = fd < 0 ? 0 : number;
      fd = -1;
    }
    ml_forks_unlock (forks);
  }
  if (fd >= 0)
    close (fd);
  if (old >= 0)
    close (old);
}

/* Put a write into the queue of a secondary that is in the fork. If it doesn't fit, the secondary
 * leaves. With the lock.
 */
static void
enqueue (struct queue *queue, uint64_t number, uint64_t offset, uint32_t length,
         struct content *content)
{
  struct ml_fork *fork = queue->fork;
  struct entry *entry;

  if (number - fork->flushed >= forks->most_writes) {
    ml_fork_leave (forks, fork, ML_FORK_WRITES);
    return;
  }
  if (!forks->waits_for_all && fork->queued_bytes
      && fork->queued_bytes + length > forks->limit_bytes) {
    ml_fork_leave (forks, fork, ML_FORK_BYTES);
    return;
  }
  entry = malloc (sizeof *entry);
  if (!entry) {
    ml_fork_leave (forks, fork, ENOMEM);
    return;
  }
  *entry = (struct entry){ number, offset, length, content, NULL };
  if (content)
    atomic_fetch_add (&content->users, 1);
  *queue->end = entry;
  queue->end = &entry->next;
  fork->queued_bytes += length;
  if (fork->is_idle) {
    fork->is_idle = 0;
    pthread_cond_signal (&queue->filled);
  }
}

uint64_t
ml_forked_end (uint64_t position, uint32_t kind, int failed, uint64_t offset, uint32_t length,
               const void *data)
{
  struct content *content = NULL;
  uint64_t number = 0;

  if (!forks) {
    ml_end (ring, position, ML_ENDED, kind);
    return 0;
  }
  if (!failed && data) {
    content = malloc (sizeof *content + length);
    if (content) {
      atomic_init (&content->users, 1);
      memcpy (content->bytes, data, length);
    }
  }
  ml_forks_lock (forks);
  if (!failed) {
    number = forks->next++;
    for (uint64_t i = 0; i < forks->count; i++) {
      if (!atomic_load (&forks->fork[i].is_in))
        continue;
      if (data && !content)
        ml_fork_leave (forks, &forks->fork[i], ENOMEM);
      else
        enqueue (&queues[i], number, offset, length, content);
    }
  }
  ml_slot (ring, position)->forked = number;
  ml_end (ring, position, ML_ENDED, kind);
  forks->ends++;
  ml_forks_unlock (forks);
  release (content);
  return number;
}

/* Return whether as many secondaries have a write as the mode says. With the lock. */
static int
is_satisfied (uint64_t number)
{
  uint64_t reached = 0, unreached = 0;

  for (uint64_t i = 0; i < forks->count; i++) {
    struct ml_fork *fork = &forks->fork[i];
    if (!atomic_load (&fork->is_in) || number < fork->joined)
      continue;
    if (fork->reached > number)
      reached++;
    else
      unreached++;
  }
  return !unreached || reached >= forks->waits_for;
}

void
ml_forked_wait (uint64_t number)
{
  if (!forks || !forks->waits_for || !number)
    return;
  ml_forks_lock (forks);
  waiters++;
  while (!is_satisfied (number))
    wait_a_moment (&bells[number % BELLS]);
  waiters--;
  ml_forks_unlock (forks);
}

int
ml_forked_flushes (void)
{
  return forks && forks->waits_for;
}
