/* See snapshot_exports.h. How a snapshot is taken, one at a time:
 *
 *   C1  Close the gate. Issue a full fence.
 *   C2  Wait until no slot of the ring is IN_FLIGHT.
 *   C3  Ask the host to close its batch, and wait until it has handed it to Kafka.
 *   C4  Take the snapshot in the store. Open the gate.
 *   C5  Wait for the host's second answer: the batch's position, in the export's description.
 *
 * A writer claims its slot, sets it IN_FLIGHT (W1, W2), does a full fence, and looks at the gate.
 * If the gate is closed, it makes the slot VOID, waits, and begins again. Either the writer sees
 * that the gate is closed, or C2 sees its slot IN_FLIGHT (Dekker's algorithm). So at C3 all writes
 * that have touched data are ENDED, and none touches data before C4.
 *
 * Why the position fits: the batch names all writes that are ENDED, and earlier batches the others
 * in the snapshot. A write that begins after C4 ends after that batch was closed, so a later one
 * names it, whatever names it before.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host_link.h"
#include "snapshot_exports.h"

#define TOKEN_BYTES 64
#define GATE_MS 1000      /* The gate is closed for about as long at most. */
#define POSITION_MS 8000  /* How long a position may take. */

/* number: in the store; -1 if it isn't there. is_ready: it was taken, or refused with `code`. */
struct ml_snapshot {
  char token[TOKEN_BYTES + 1], description[ML_TEXT_BYTES];
  int number, is_ready, code;
  unsigned users;
  struct ml_snapshot *next;
};

_Atomic uint32_t ml_gate;

static struct ml_ring *ring;
static struct ml_store *store;
static uint64_t taken;  /* Guarded by `taking`. */
static pthread_mutex_t taking = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* Guards `snapshots`. */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct ml_snapshot *snapshots;

void
ml_snapshots_start (struct ml_ring *ring_, struct ml_store *store_)
{
  ring = ring_;
  store = store_;
}

void
ml_wait_at_gate (void)
{
  pthread_mutex_lock (&lock);
  while (atomic_load (&ml_gate) & ML_GATE_CLOSED)
    pthread_cond_wait (&changed, &lock);
  pthread_mutex_unlock (&lock);
}

/* Open the gate, with `more` snapshots than before. */
static void
open_gate (int more)
{
  pthread_mutex_lock (&lock);
  atomic_fetch_add (&ml_gate, (uint32_t) (2 * more) - ML_GATE_CLOSED);
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
}

void
ml_snapshots_keep (uint64_t offset, uint64_t length, ml_read_primary *read_primary, void *context)
{
  ml_store_keep (store, offset, length, read_primary, context);
}

/* C2. Return 0, or EBUSY if a write takes too long. */
static int
wait_for_writes (void)
{
  const struct timespec pause = { 0, 50 * 1000 };
  uint64_t head = atomic_load (&ring->head), position = atomic_load (&ring->tail);
  int waits = GATE_MS * 20;

  while (position < head) {
    uint32_t state = atomic_load (&ml_slot (ring, position)->state);

    /* The host frees what has ended. Its slot may belong to a later position then. */
    if (state != ML_IN_FLIGHT || atomic_load (&ring->tail) > position)
      position++;
    else if (waits-- == 0)
      return EBUSY;
    else
      nanosleep (&pause, NULL);
  }
  return 0;
}

/* C1 to C5. Return 0, or an errno. */
static int
take (struct ml_snapshot *snapshot)
{
  struct ml_waiter closed = { 0 }, position = { 0 };
  int code;

  pthread_mutex_lock (&taking);
  closed.position = ML_SNAPSHOT_POSITION | 2 * taken++;
  position.position = closed.position + 1;
  position.text = snapshot->description;
  position.text_size = sizeof snapshot->description;
  ml_waiter_add (&closed);
  ml_waiter_add (&position);
  atomic_fetch_or (&ml_gate, ML_GATE_CLOSED);  /* C1 */
  atomic_thread_fence (memory_order_seq_cst);
  code = wait_for_writes ();
  if (code == 0)
    code = ml_send (ML_CLOSE_BATCH, closed.position, 0, 0);
  if (code == 0)
    code = ml_waiter_wait (&closed, GATE_MS);
  else
    ml_waiter_remove (&closed);
  if (code == 0 && (snapshot->number = ml_store_take (store)) < 0)
    code = EMFILE;
  open_gate (code == 0);
  pthread_mutex_unlock (&taking);
  if (code) {
    ml_waiter_remove (&position);
    return code;
  }
  return ml_waiter_wait (&position, POSITION_MS);
}

/* Return the open snapshot of a token, or NULL. With the lock held. */
static struct ml_snapshot *
find (const char *token)
{
  for (struct ml_snapshot *snapshot = snapshots; snapshot; snapshot = snapshot->next)
    if (strcmp (snapshot->token, token) == 0)
      return snapshot;
  return NULL;
}

void
ml_snapshot_close (struct ml_snapshot *snapshot)
{
  int is_last;

  pthread_mutex_lock (&lock);
  is_last = --snapshot->users == 0;
  if (is_last)
    for (struct ml_snapshot **at = &snapshots; *at; at = &(*at)->next)
      if (*at == snapshot) {
        *at = snapshot->next;
        break;
      }
  pthread_mutex_unlock (&lock);
  if (!is_last)
    return;
  if (snapshot->number >= 0) {
    /* A write that still sees the snapshot in the gate finds none in the store. */
    ml_store_drop (store, snapshot->number);
    atomic_fetch_sub (&ml_gate, 2);
  }
  free (snapshot);
}

/* Return what prevents the snapshot, for people. */
static const char *
problem_of (int code)
{
  switch (code) {
  case EMFILE:
    return "the host has as many snapshots as it can have: stop a site, or try again";
  case EBUSY:
    return "no snapshot: a write took too long to end; try again";
  case EAGAIN:
    return "no snapshot: the host can't publish at once, because Kafka is away; try again";
  case ETIMEDOUT:
    return "no snapshot: the host didn't answer in time; try again";
  default:
    return "no snapshot: the host has failed, or ends";
  }
}

struct ml_snapshot *
ml_snapshot_open (const char *export_name, const char **problem)
{
  const char *token = export_name + strlen (ML_SNAPSHOT_EXPORT);
  struct ml_snapshot *snapshot;
  int is_new, code;

  if (!store || !*token || strlen (token) > TOKEN_BYTES) {
    *problem = store ? "the name of a snapshot has 1 to 64 characters" : "there are no snapshots";
    return NULL;
  }
  pthread_mutex_lock (&lock);
  snapshot = find (token);
  is_new = !snapshot;
  if (is_new && (snapshot = calloc (1, sizeof *snapshot))) {
    strcpy (snapshot->token, token);
    snapshot->number = -1;
    snapshot->next = snapshots;
    snapshots = snapshot;
  }
  if (snapshot)
    snapshot->users++;
  while (snapshot && !is_new && !snapshot->is_ready)
    pthread_cond_wait (&changed, &lock);
  pthread_mutex_unlock (&lock);
  if (!snapshot) {
    *problem = "no memory for a snapshot";
    return NULL;
  }
  if (is_new) {
    code = take (snapshot);
    pthread_mutex_lock (&lock);
    snapshot->code = code;
    snapshot->is_ready = 1;
    pthread_cond_broadcast (&changed);
    pthread_mutex_unlock (&lock);
  }
  code = snapshot->code;
  if (code == 0)
    return snapshot;
  *problem = problem_of (code);
  ml_snapshot_close (snapshot);
  return NULL;
}

const char *
ml_snapshot_description (const struct ml_snapshot *snapshot)
{
  return snapshot->description;
}

int
ml_snapshot_read (struct ml_snapshot *snapshot, uint64_t offset, uint64_t length, void *buf)
{
  return ml_store_read (store, snapshot->number, offset, length, buf);
}
