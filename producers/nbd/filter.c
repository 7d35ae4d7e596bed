/* An nbdkit filter that records every write in the ring (ring.h) before the plugin below writes it.
 * native.py builds it, and export.py runs it:
 *
 *   nbdkit --filter=.../mirrorlog-filter.so file PRIMARY ring=FD control=FD
 *
 * nbdkit inherits both descriptors: the shared segment, and a SOCK_SEQPACKET socket to the host
 * (struct ml_message). When the host closes its end of the socket, or dies, no write begins any
 * more.
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
static pthread_t receiver;
static _Atomic int host_gone;

/* A write that waits for the host's answer. `waiters` lists them; `lock` guards it. */
struct waiter {
  uint64_t position;
  int answered, code;
  struct waiter *next;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answered = PTHREAD_COND_INITIALIZER;
static struct waiter *waiters;

static int
tracked_config (nbdkit_next_config *next, nbdkit_backend *nxdata, const char *key,
                const char *value)
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
  struct stat segment;

  if (ring_fd < 0 || control_fd < 0 || fstat (ring_fd, &segment) < 0) {
    nbdkit_error ("the parameters ring=FD and control=FD are missing: use `mirrorlog host serve`");
    return -1;
  }
  ring = mmap (NULL, segment.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd, 0);
  if (ring == MAP_FAILED) {
    nbdkit_error ("mapping the ring: %m");
    return -1;
  }
  if (ring->magic != ML_MAGIC) {
    nbdkit_error ("the ring isn't of this filter's version: "
                  "start the export again with `mirrorlog host serve`");
    return -1;
  }
  return next (nxdata);
}

/* Receive the host's answers until the host closes its end of the socket or dies. Then fail the
 * writes that wait.
 */
static void *
receive_answers (void *unused)
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
      atomic_store (&host_gone, 1);
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
  int code = pthread_create (&receiver, NULL, receive_answers, NULL);

  (void) backend;
  if (code) {
    nbdkit_error ("starting the thread that receives the host's answers: %s", strerror (code));
    return -1;
  }
  pthread_detach (receiver);
  return 0;
}

static int64_t
tracked_get_size (nbdkit_next *next, void *handle)
{
  int64_t below = next->get_size (next);

  (void) handle;
  if (below >= 0 && (uint64_t) below < ring->size_bytes) {
    nbdkit_error ("the primary has %ld bytes, fewer than the volume's %lu", (long) below,
                  (unsigned long) ring->size_bytes);
    return -1;
  }
  return below < 0 ? below : (int64_t) ring->size_bytes;
}

/* The filter carries out FUA as a flush after the write. A flush that fails is then distinct from
 * a write that fails.
 */
static int
tracked_can_fua (nbdkit_next *next, void *handle)
{
  int can = next->can_flush (next);

  (void) handle;
  return can < 0 ? -1 : can ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_NONE;
}

/* The filter carries out a discard as a zero that may make a hole. Afterwards the range reads as
 * zeros, as the tracking log says.
 */
static int
tracked_can_trim (nbdkit_next *next, void *handle)
{
  int can = next->can_zero (next);

  (void) handle;
  return can < 0 ? -1 : can > NBDKIT_ZERO_NONE;
}

/* Sleep for 200 µs while the ring is full. */
static void
pause_for_room (void)
{
  const struct timespec pause = { 0, 200 * 1000 };
  nanosleep (&pause, NULL);
}

/* Return the time in microseconds since 1970. */
static uint64_t
now_us (void)
{
  struct timespec now;
  clock_gettime (CLOCK_REALTIME, &now);
  return (uint64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Send a message to the host. Return 0, or EIO if the socket doesn't take it. Only a message that
 * needs an answer waits for room in the socket.
 */
static int
send_message (uint32_t what, uint64_t position, uint64_t offset, uint64_t length)
{
  const struct ml_message message = { what, 0, position, offset, length };
  ssize_t sent;

  do
    sent = send (control_fd, &message, sizeof message,
                 MSG_NOSIGNAL | (what == ML_NOTIFY ? MSG_DONTWAIT : 0));
  while (sent < 0 && errno == EINTR);
  return sent == sizeof message ? 0 : EIO;
}

/* W3: ask the host to grant the regions of a write, and wait for its answer.
 * Return 0 or an errno.
 */
static int
request_grant (uint64_t position, uint64_t offset, uint64_t length)
{
  struct waiter self = { position, 0, 0, NULL };

  pthread_mutex_lock (&lock);
  self.next = waiters;
  waiters = &self;
  pthread_mutex_unlock (&lock);
  self.code = send_message (ML_REQUEST_GRANT, position, offset, length);
  pthread_mutex_lock (&lock);
  while (self.code == 0 && !self.answered && !atomic_load (&host_gone))
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

/* W1 to W3. Return 0 and set *position, or return an errno; the caller then touches no data. */
static int
begin (uint32_t kind, uint64_t offset, uint64_t length, uint64_t *position)
{
  int code;

  while ((code = ml_begin (ring, kind, offset, length, now_us (), position)) == EAGAIN) {
    if (atomic_load (&host_gone))
      return EIO;
    send_message (ML_NOTIFY, 0, 0, 0);
    pause_for_room ();
  }
  if (*position % ring->notify_every == ring->notify_every - 1)
    send_message (ML_NOTIFY, 0, 0, 0);
  while (!ml_may_write (ring, offset, length) && code == 0)
    code = request_grant (*position, offset, length);
  if (code == 0)
    code = atomic_load_explicit (&ring->failed, memory_order_acquire);
  if (code == 0 && atomic_load (&host_gone))
    code = EIO;
  if (code)
    ml_end (ring, *position, ML_VOID, kind);
  return code;
}

/* Return the length of the next piece of [offset, end). Pieces end at multiples of
 * max_write_bytes.
 */
static uint32_t
piece_length (uint64_t offset, uint64_t end)
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
    atomic_store (&ring->failed, EIO);  /* Writes may be lost: let no further one begin. */
  return failed;
}

static int
tracked_pwrite (nbdkit_next *next, void *handle, const void *buf, uint32_t count, uint64_t offset,
                uint32_t flags, int *err)
{
  const char *data = buf;
  uint64_t position, end = offset + count;
  int failed = 0;

  for (uint32_t length; !failed && offset < end; offset += length, data += length) {
    length = piece_length (offset, end);
    if ((*err = begin (ML_WRITE, offset, length, &position)))
      return -1;
    failed = next->pwrite (next, data, length, offset, flags & ~NBDKIT_FLAG_FUA, err);  /* W4 */
    ml_end (ring, position, ML_ENDED, ML_WRITE);
  }
  return failed || !(flags & NBDKIT_FLAG_FUA) ? failed : tracked_flush (next, handle, 0, err);
}

/* Zero a range, with `kind` ML_ZERO or ML_DISCARD for the log. */
static int
zero_pieces (nbdkit_next *next, uint32_t kind, uint32_t count, uint64_t offset, uint32_t flags,
             int *err)
{
  uint64_t position, end = offset + count;
  int failed = 0;

  for (uint32_t length; !failed && offset < end; offset += length) {
    length = piece_length (offset, end);
    if ((*err = begin (kind, offset, length, &position)))
      return -1;
    failed = next->zero (next, length, offset, flags & ~NBDKIT_FLAG_FUA, err);  /* W4 */
    ml_end (ring, position, ML_ENDED, failed ? ML_WRITE : kind);
  }
  return failed || !(flags & NBDKIT_FLAG_FUA) ? failed : tracked_flush (next, NULL, 0, err);
}

static int
tracked_zero (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset, uint32_t flags,
              int *err)
{
  (void) handle;
  return zero_pieces (next, ML_ZERO, count, offset, flags, err);
}

static int
tracked_trim (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset, uint32_t flags,
              int *err)
{
  int fast = next->can_fast_zero (next) == 1;

  (void) handle;
  flags |= NBDKIT_FLAG_MAY_TRIM | (fast ? NBDKIT_FLAG_FAST_ZERO : 0);
  if (zero_pieces (next, ML_DISCARD, count, offset, flags, err) == 0)
    return 0;
  /* A discard is a hint. If zeroing would be slow, it isn't done, and the log names a write. */
  return fast && (*err == ENOTSUP || *err == EOPNOTSUPP) ? 0 : -1;
}

static struct nbdkit_filter filter = {
  .name = "mirrorlog",
  .longname = "mirrorlog: track the blocks that are written",
  .config = tracked_config,
  .config_complete = tracked_config_complete,
  .config_help = "ring=FD control=FD   `mirrorlog host serve` sets both",
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
