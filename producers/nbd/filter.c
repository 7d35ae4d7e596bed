/* nbdkit filter: every write passes the ring (ring.h) on its way to the plugin below. Built by native.py, run by export.py.
 *
 *   nbdkit --filter=.../mirrorlog-filter.so file PRIMARY ring=FD control=FD
 *
 * Both descriptors are inherited: the segment, and a socket of packets (struct ml_message) to the host. The host closes
 * its end, or dies: no write begins any more.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-filter.h>

#include "ring.h"

static int ring_fd = -1, control_fd = -1;
static struct ml_ring *ring;
static pthread_t listener;
static _Atomic int abandoned;  /* the host is gone */

/* Writes that wait for the host's word. */
struct waiter {
  uint64_t position;
  int answered, code;
  struct waiter *next;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answered = PTHREAD_COND_INITIALIZER;
static struct waiter *waiters;

static int
tracked_config (nbdkit_next_config *next, nbdkit_backend *nxdata, const char *key, const char *value)
{
  if (strcmp (key, "ring") == 0)
    return nbdkit_parse_int ("ring", value, &ring_fd);
  if (strcmp (key, "control") == 0)
    return nbdkit_parse_int ("control", value, &control_fd);
  return next (nxdata, key, value);
}

static int
tracked_config_complete (nbdkit_next_config_complete *next, nbdkit_backend *nxdata)
{
  struct stat found;

  if (ring_fd < 0 || control_fd < 0 || fstat (ring_fd, &found) < 0) {
    nbdkit_error ("ring=FD and control=FD are needed: run it with `mirrorlog host serve`");
    return -1;
  }
  ring = mmap (NULL, found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd, 0);
  if (ring == MAP_FAILED) {
    nbdkit_error ("the ring can't be mapped: %m");
    return -1;
  }
  if (ring->magic != ML_MAGIC) {
    nbdkit_error ("that isn't a ring of this version");
    return -1;
  }
  return next (nxdata);
}

/* Hears the host's answers; its end of the socket closes when it dies. */
static void *
listen_to_host (void *unused)
{
  struct ml_message answer;
  ssize_t got;

  (void) unused;
  for (;;) {
    got = recv (control_fd, &answer, sizeof answer, 0);
    if (got < 0 && errno == EINTR)
      continue;
    pthread_mutex_lock (&lock);
    if (got != sizeof answer)
      atomic_store (&abandoned, 1);
    for (struct waiter *waiter = waiters; waiter; waiter = waiter->next)
      if (got != sizeof answer || waiter->position == answer.position) {
        waiter->code = got == sizeof answer ? (int) answer.what : EIO;
        waiter->answered = 1;
      }
    pthread_cond_broadcast (&answered);
    pthread_mutex_unlock (&lock);
    if (got != sizeof answer)
      return NULL;
  }
}

static int
tracked_after_fork (nbdkit_backend *backend)
{
  int code = pthread_create (&listener, NULL, listen_to_host, NULL);

  (void) backend;
  if (code) {
    nbdkit_error ("no thread for the host's answers: %s", strerror (code));
    return -1;
  }
  pthread_detach (listener);
  return 0;
}

static int64_t
tracked_get_size (nbdkit_next *next, void *handle)
{
  int64_t below = next->get_size (next);

  (void) handle;
  if (below >= 0 && (uint64_t) below < ring->size_bytes) {
    nbdkit_error ("the primary has %ld bytes, the volume %lu", (long) below, (unsigned long) ring->size_bytes);
    return -1;
  }
  return below < 0 ? below : (int64_t) ring->size_bytes;
}

/* Carried out here, as a flush after the write: so a flush that fails is told from a write that fails. */
static int
tracked_can_fua (nbdkit_next *next, void *handle)
{
  int can = next->can_flush (next);

  (void) handle;
  return can < 0 ? -1 : can ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_NONE;
}

/* A discard is carried out as a zero that may make a hole: afterwards the range reads as zeros, as the log says of it. */
static int
tracked_can_trim (nbdkit_next *next, void *handle)
{
  int can = next->can_zero (next);

  (void) handle;
  return can < 0 ? -1 : can > NBDKIT_ZERO_NONE;
}

static void
pause_for_room (void)
{
  const struct timespec pause = { 0, 200 * 1000 };
  nanosleep (&pause, NULL);
}

static uint64_t
now_us (void)
{
  struct timespec now;
  clock_gettime (CLOCK_REALTIME, &now);
  return (uint64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Tells the host. Only what asks for an answer waits until the socket takes it. */
static int
tell (uint32_t what, uint64_t position, uint64_t offset, uint64_t length)
{
  const struct ml_message message = { what, 0, position, offset, length };
  ssize_t sent;

  do
    sent = send (control_fd, &message, sizeof message, MSG_NOSIGNAL | (what == ML_NOTIFY ? MSG_DONTWAIT : 0));
  while (sent < 0 && errno == EINTR);
  return sent == sizeof message ? 0 : EIO;
}

/* W3's question. 0, or an errno. */
static int
ask (uint64_t position, uint64_t offset, uint64_t length)
{
  struct waiter self = { position, 0, 0, NULL };

  pthread_mutex_lock (&lock);
  self.next = waiters;
  waiters = &self;
  pthread_mutex_unlock (&lock);
  self.code = tell (ML_REQUEST_GRANT, position, offset, length);
  pthread_mutex_lock (&lock);
  while (self.code == 0 && !self.answered && !atomic_load (&abandoned))
    pthread_cond_wait (&answered, &lock);
  if (!self.answered)
    self.code = EIO;
  for (struct waiter **at = &waiters; *at; at = &(*at)->next)
    if (*at == &self) {
      *at = self.next;
      break;
    }
  pthread_mutex_unlock (&lock);
  return self.code;
}

/* W1 to W3. 0, or an errno: then nothing may be touched. */
static int
begin (uint32_t kind, uint64_t offset, uint64_t length, uint64_t *position)
{
  int code;

  while ((code = ml_begin (ring, kind, offset, length, now_us (), position)) == EAGAIN) {
    if (atomic_load (&abandoned))
      return EIO;
    tell (ML_NOTIFY, 0, 0, 0);
    pause_for_room ();
  }
  if (*position % ring->notify_every == ring->notify_every - 1)
    tell (ML_NOTIFY, 0, 0, 0);
  while (!ml_may_write (ring, offset, length) && code == 0)
    code = ask (*position, offset, length);
  if (code == 0)
    code = atomic_load_explicit (&ring->failed, memory_order_acquire);
  if (code == 0 && atomic_load (&abandoned))
    code = EIO;
  if (code)
    ml_end (ring, *position, ML_VOID, kind);
  return code;
}

static uint32_t
piece (uint64_t offset, uint64_t end)
{
  uint64_t cut = offset - offset % ring->max_write_bytes + ring->max_write_bytes;
  return (uint32_t) ((cut < end ? cut : end) - offset);
}

static int
tracked_flush (nbdkit_next *next, void *handle, uint32_t flags, int *err)
{
  int failed = next->flush (next, flags, err);

  (void) handle;
  if (failed)
    atomic_store (&ring->failed, EIO);  /* what wasn't durable may be lost: no write begins any more */
  return failed;
}

static int
tracked_pwrite (nbdkit_next *next, void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags,
                int *err)
{
  const char *data = buf;
  uint64_t position, end = offset + count;
  int failed = 0;

  for (uint32_t length; !failed && offset < end; offset += length, data += length) {
    length = piece (offset, end);
    if ((*err = begin (ML_WRITE, offset, length, &position)))
      return -1;
    failed = next->pwrite (next, data, length, offset, flags & ~NBDKIT_FLAG_FUA, err);  /* W4 */
    ml_end (ring, position, ML_ENDED, ML_WRITE);
  }
  return failed || !(flags & NBDKIT_FLAG_FUA) ? failed : tracked_flush (next, handle, 0, err);
}

static int
zeroed (nbdkit_next *next, uint32_t kind, uint32_t count, uint64_t offset, uint32_t flags, int *err)
{
  uint64_t position, end = offset + count;
  int failed = 0;

  for (uint32_t length; !failed && offset < end; offset += length) {
    length = piece (offset, end);
    if ((*err = begin (kind, offset, length, &position)))
      return -1;
    failed = next->zero (next, length, offset, flags & ~NBDKIT_FLAG_FUA, err);  /* W4 */
    ml_end (ring, position, ML_ENDED, failed ? ML_WRITE : kind);
  }
  return failed || !(flags & NBDKIT_FLAG_FUA) ? failed : tracked_flush (next, NULL, 0, err);
}

static int
tracked_zero (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset, uint32_t flags, int *err)
{
  (void) handle;
  return zeroed (next, ML_ZERO, count, offset, flags, err);
}

static int
tracked_trim (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset, uint32_t flags, int *err)
{
  int fast = next->can_fast_zero (next) == 1;

  (void) handle;
  flags |= NBDKIT_FLAG_MAY_TRIM | (fast ? NBDKIT_FLAG_FAST_ZERO : 0);
  if (zeroed (next, ML_DISCARD, count, offset, flags, err) == 0)
    return 0;
  /* A discard is only a hint: where zeroing would be slow it is left undone, and is in the log as a write. */
  return fast && (*err == ENOTSUP || *err == EOPNOTSUPP) ? 0 : -1;
}

static struct nbdkit_filter filter = {
  .name = "mirrorlog",
  .longname = "mirrorlog: what is written is tracked",
  .config = tracked_config,
  .config_complete = tracked_config_complete,
  .config_help = "ring=FD control=FD   given by `mirrorlog host serve`",
  .after_fork = tracked_after_fork,
  .get_size = tracked_get_size,
  .can_fua = tracked_can_fua,
  .can_trim = tracked_can_trim,
  .pwrite = tracked_pwrite,
  .zero = tracked_zero,
  .trim = tracked_trim,
  .flush = tracked_flush,
};

NBDKIT_REGISTER_FILTER (filter)
