/* An nbdkit filter that records every write in the ring (ring.h) before the plugin below writes it.
 * native.py builds it, and export.py runs it:
 *
 *   nbdkit --filter=.../mirrorlog-filter.so file PRIMARY ring=FD control=FD about=TEXT  ...
 *       about-hold=TEXT kept-memory=BYTES kept-fd=FD kept-file=BYTES
 *
 * nbdkit inherits the descriptors: the shared segment, a SOCK_SEQPACKET socket to the host (struct
 * ml_message), and a file for snapshots. When the host closes its end of the socket, or dies, no
 * write begins any more. `about` is the description of the export; the others are the limits of
 * ml_store_new(). `about-hold` is the description of a hold (snapshot_exports.h).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-filter.h>

#include "forked_writes.h"
#include "host_link.h"
#include "ring.h"
#include "snapshot_exports.h"

static int ring_fd = -1, control_fd = -1, kept_fd = -1;
static int64_t kept_memory, kept_file;
static const char *about = "", *about_hold = "";
static struct ml_ring *ring;
static _Atomic uint64_t flushes;  /* How many flushes of secondaries the host was asked for. */

#define DRAIN_MS 3000  /* How long secondaries get for what is queued when nbdkit ends. */

/* Its address is the handle of each connection that reads and writes the primary itself.
 * (NBDKIT_HANDLE_NOT_NEEDED is another address in each thread.)
 */
static char live;

/* The handle of a connection to a snapshot. is_hold: a flush on it releases the snapshot. */
struct reader {
  struct ml_snapshot *snapshot;
  int is_hold;
};

static struct reader *
reader_of (void *handle)
{
  return handle == &live ? NULL : handle;
}

/* Return the snapshot that a connection reads; NULL if it reads the primary itself. */
static struct ml_snapshot *
snapshot_of (void *handle)
{
  struct reader *reader = reader_of (handle);

  return reader ? reader->snapshot : NULL;
}

/* Return what follows `prefix` in `name`; NULL if that doesn't begin so. */
static const char *
after_prefix (const char *name, const char *prefix)
{
  size_t length = strlen (prefix);

  return strncmp (name, prefix, length) == 0 ? name + length : NULL;
}

static int
tracked_config (nbdkit_next_config *next, nbdkit_backend *nxdata, const char *key,
                const char *value)
{
  if (strcmp (key, "ring") == 0)
    return nbdkit_parse_int ("ring", value, &ring_fd);
  if (strcmp (key, "control") == 0)
    return nbdkit_parse_int ("control", value, &control_fd);
  if (strcmp (key, "kept-fd") == 0)
    return nbdkit_parse_int ("kept-fd", value, &kept_fd);
  if (strcmp (key, "kept-memory") == 0)
    return (kept_memory = nbdkit_parse_size (value)) < 0 ? -1 : 0;
  if (strcmp (key, "kept-file") == 0)
    return (kept_file = nbdkit_parse_size (value)) < 0 ? -1 : 0;
  if (strcmp (key, "about") == 0) {
    about = value;  /* nbdkit keeps it until it ends. */
    return 0;
  }
  if (strcmp (key, "about-hold") == 0) {
    about_hold = value;
    return 0;
  }
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

static int
tracked_after_fork (nbdkit_backend *backend)
{
  struct ml_store *store = ml_store_new (ring->size_bytes, kept_memory, kept_fd, kept_file);
  int code = ml_forked_start (ring);

  (void) backend;
  if (code == 0)
    code = ml_link_start (control_fd);
  /* nbdkit asks for SIGTERM when its parent dies, and then waits for its clients to leave. */
  prctl (PR_SET_PDEATHSIG, SIGKILL);
  ml_snapshots_start (ring, store);
  if (code) {
    nbdkit_error ("starting the filter's threads: %s", strerror (code));
    return -1;
  }
  return 0;
}

/* All clients have left: let the secondaries have what was acknowledged. */
static void
tracked_cleanup (nbdkit_backend *backend)
{
  (void) backend;
  ml_forked_drain (DRAIN_MS);
}

static void *
tracked_open (nbdkit_next_open *next, nbdkit_context *context, int readonly,
              const char *exportname, int is_tls)
{
  const char *hold = after_prefix (exportname, ML_HOLD_EXPORT);
  const char *token = hold ? hold : after_prefix (exportname, ML_SNAPSHOT_EXPORT);
  struct reader *reader;
  const char *problem = "no memory for a connection";

  (void) is_tls;
  if (next (context, readonly || token, exportname) < 0)
    return NULL;
  if (!token)
    return &live;
  if (ring->forks.count) {
    nbdkit_error ("there are no snapshots of a volume with forked writes");
    return NULL;
  }
  reader = malloc (sizeof *reader);
  if (reader) {
    reader->is_hold = hold != NULL;
    reader->snapshot = ml_snapshot_open (token, reader->is_hold, &problem);
  }
  if (!reader || !reader->snapshot) {
    nbdkit_error ("%s", problem);
    free (reader);
    return NULL;
  }
  return reader;
}

static void
tracked_close (void *handle)
{
  struct reader *reader = reader_of (handle);

  if (reader) {
    ml_snapshot_close (reader->snapshot);
    free (reader);
  }
}

static const char *
tracked_export_description (nbdkit_next *next, void *handle)
{
  struct reader *reader = reader_of (handle);

  (void) next;
  if (!reader)
    return about;
  return reader->is_hold ? about_hold : ml_snapshot_description (reader->snapshot);
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

static int
tracked_can_write (nbdkit_next *next, void *handle)
{
  return snapshot_of (handle) ? 0 : next->can_write (next);
}

/* A snapshot has nothing to flush; a flush of a hold releases it. */
static int
tracked_can_flush (nbdkit_next *next, void *handle)
{
  return snapshot_of (handle) ? 1 : next->can_flush (next);
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
  int can = snapshot_of (handle) ? 0 : next->can_zero (next);

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

/* W3: ask the host to grant the regions of a write, and wait for its answer.
 * Return 0 or an errno.
 */
static int
request_grant (uint64_t position, uint64_t offset, uint64_t length)
{
  struct ml_waiter self = { .position = position };

  ml_waiter_add (&self);
  if (ml_send (ML_REQUEST_GRANT, position, offset, length)) {
    ml_waiter_remove (&self);
    return EIO;
  }
  return ml_waiter_wait (&self, 0);
}

/* Claim a slot when the gate is open. Return 0, and set *position and *gate; or an errno. */
static int
claim (uint32_t kind, uint64_t offset, uint64_t length, uint64_t *position, uint32_t *gate)
{
  for (;;) {
    if (ml_begin (ring, kind, offset, length, now_us (), position) == EAGAIN) {
      if (ml_host_is_gone ())
        return EIO;
      ml_send (ML_NOTIFY, 0, 0, 0);
      pause_for_room ();
      continue;
    }
    if (*position % ring->notify_every == ring->notify_every - 1)
      ml_send (ML_NOTIFY, 0, 0, 0);
    *gate = atomic_load_explicit (&ml_gate, memory_order_acquire);
    if (!(*gate & ML_GATE_CLOSED))
      return 0;
    ml_end (ring, *position, ML_VOID, kind);
    ml_wait_at_gate ();
  }
}

static int
read_primary (void *context, void *buf, uint32_t count, uint64_t offset)
{
  nbdkit_next *next = context;
  int err;

  return next->pread (next, buf, count, offset, 0, &err);
}

/* W1 to W3, and what snapshots need. Return 0 and set *position, or return an errno; the caller
 * then touches no data.
 */
static int
begin (nbdkit_next *next, uint32_t kind, uint64_t offset, uint64_t length, uint64_t *position)
{
  uint32_t gate;
  int code = claim (kind, offset, length, position, &gate);

  if (code)
    return code;
  while (!ml_may_write (ring, offset, length) && code == 0)
    code = request_grant (*position, offset, length);
  if (code == 0 && ml_clear_markers (ring, offset, length))
    ml_send (ML_GRANT_AHEAD, *position, offset, length);
  if (code == 0)
    code = atomic_load_explicit (&ring->failed, memory_order_acquire);
  if (code == 0 && ml_host_is_gone ())
    code = EIO;
  if (code)
    ml_end (ring, *position, ML_VOID, kind);
  else if (gate)
    ml_snapshots_keep (offset, length, read_primary, next);
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
  struct reader *reader = reader_of (handle);
  struct ml_waiter self = { 0 };
  int failed, asked = 0;

  if (reader) {
    *err = reader->is_hold ? ml_snapshot_release (reader->snapshot) : 0;
    return *err ? -1 : 0;
  }
  if (ml_forked_flushes ()) {
    self.position = ML_FLUSH_POSITION | atomic_fetch_add (&flushes, 1);
    ml_waiter_add (&self);
    asked = ml_send (ML_FLUSH_FORKS, self.position, 0, 0) == 0;
    if (!asked)
      ml_waiter_remove (&self);
  }
  failed = next->flush (next, flags, err);
  if (failed)
    atomic_store (&ring->failed, EIO);  /* Writes may be lost: let no further one begin. */
  /* Nothing that happens to a secondary fails the writer, but without its host nothing is known. */
  if (ml_forked_flushes ()) {
    int code = asked ? ml_waiter_wait (&self, 0) : EIO;
    if (code && !failed) {
      *err = code;
      failed = -1;
    }
  }
  return failed;
}

static int
tracked_pread (nbdkit_next *next, void *handle, void *buf, uint32_t count, uint64_t offset,
               uint32_t flags, int *err)
{
  struct ml_snapshot *snapshot = snapshot_of (handle);
  int failed = next->pread (next, buf, count, offset, flags, err);

  if (failed || !snapshot)
    return failed;
  *err = ml_snapshot_read (snapshot, offset, count, buf);
  return *err ? -1 : 0;
}

/* Add [offset, offset + length) to the extents, if it has a byte. */
static int
add_extent (struct nbdkit_extents *extents, uint64_t offset, uint64_t length, uint32_t type)
{
  return length ? nbdkit_add_extent (extents, offset, length, type) : 0;
}

/* What the primary says is zeros was so at the snapshot, too, up to the first block that was
 * changed since. The rest counts as data.
 */
static int
tracked_extents (nbdkit_next *next, void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                 struct nbdkit_extents *extents, int *err)
{
  struct ml_snapshot *snapshot = snapshot_of (handle);
  struct nbdkit_extents *below;
  int failed;

  if (!snapshot)
    return next->extents (next, count, offset, flags, extents, err);
  below = nbdkit_extents_new (offset, offset + count);
  if (!below) {
    *err = errno;
    return -1;
  }
  failed = next->extents (next, count, offset, flags, below, err);
  for (size_t i = 0; !failed && i < nbdkit_extents_count (below); i++) {
    struct nbdkit_extent one = nbdkit_get_extent (below, i);
    uint64_t same = one.type & NBDKIT_EXTENT_ZERO
                    ? ml_snapshot_unchanged (snapshot, one.offset, one.length) : 0;
    if (add_extent (extents, one.offset, same, one.type)
        || add_extent (extents, one.offset + same, one.length - same, 0)) {
      *err = errno;
      failed = -1;
    }
  }
  nbdkit_extents_free (below);
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
    struct ml_range range = { offset, 0, NULL };
    uint64_t number;
    length = piece_length (offset, end);
    range.end = offset + length;
    ml_range_enter (&range);
    *err = begin (next, ML_WRITE, offset, length, &position);
    if (*err) {
      ml_range_leave (&range);
      return -1;
    }
    failed = next->pwrite (next, data, length, offset, flags & ~NBDKIT_FLAG_FUA, err);  /* W4 */
    number = ml_forked_end (position, ML_WRITE, failed, offset, length, data);
    ml_range_leave (&range);
    ml_forked_wait (number);
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
    struct ml_range range = { offset, 0, NULL };
    uint64_t number;
    length = piece_length (offset, end);
    range.end = offset + length;
    ml_range_enter (&range);
    *err = begin (next, kind, offset, length, &position);
    if (*err) {
      ml_range_leave (&range);
      return -1;
    }
    failed = next->zero (next, length, offset, flags & ~NBDKIT_FLAG_FUA, err);  /* W4 */
    number = ml_forked_end (position, failed ? ML_WRITE : kind, failed, offset, length, NULL);
    ml_range_leave (&range);
    ml_forked_wait (number);
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
  .config_help = "ring=FD control=FD …   `mirrorlog host serve` sets all parameters",
  .after_fork = tracked_after_fork,
  .cleanup = tracked_cleanup,
  .open = tracked_open,
  .close = tracked_close,
  .export_description = tracked_export_description,
  .get_size = tracked_get_size,
  .can_write = tracked_can_write,
  .can_flush = tracked_can_flush,
  .can_fua = tracked_can_fua,
  .can_trim = tracked_can_trim,
  .extents = tracked_extents,
  .pread = tracked_pread,
  .pwrite = tracked_pwrite,
  .zero = tracked_zero,
  .trim = tracked_trim,
  .flush = tracked_flush,
};

NBDKIT_REGISTER_FILTER (filter)
