/* See snapshot_exports.h. How a snapshot is taken, one at a time:
 *
 *   C1  Close the gate. Issue a full fence.
 *   C2  Wait until no slot of the ring is IN_FLIGHT.
 *   C3  Ask the host to close its batch, and wait until it has handed it to Kafka.
 *   C4  Take the snapshot in the store. Open the gate, unless the snapshot is to hold it.
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
 *
 * A hold is for the snapshots of several volumes at one moment: the client opens one at each of
 * their hosts, and then releases all of them. A gate stays closed until each snapshot that holds it
 * is released, or GATE_MS have passed since it was closed: the first writer that waits opens it
 * then. A release fails if the gate was opened in between. So if all releases succeed, all gates
 * were closed at once, at any moment after the last hold was there and before the first release.
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
#define LOOK_MS 10        /* How often a writer that waits looks whether it may open the gate. */
#define POSITION_MS 8000  /* How long a position may take. */

/* number: in the store; -1 if it isn't there. is_ready: it was taken, or refused with `code`.
 * position: of the host's second answer, which fills in the description. holds: it keeps the gate
 * closed. lost: it should have, and the gate was opened.
 */
struct ml_snapshot {
  char token[TOKEN_BYTES + 1], description[ML_TEXT_BYTES];
  int number, is_ready, code, holds, lost;
  unsigned users;
  struct ml_waiter position;
  struct ml_snapshot *next;
};

_Atomic uint32_t ml_gate;

static struct ml_ring *ring;
static struct ml_store *store;
static uint64_t taken;  /* Guarded by `taking`. */
static pthread_mutex_t taking = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* Guards what follows. */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct ml_snapshot *snapshots;
static int is_taking;          /* C1 to C4 run: the gate must stay closed. */
static unsigned holds;         /* How many snapshots hold the gate. */
static uint64_t open_from_ms;  /* By the monotonic clock: from then on no hold keeps it closed. */

void
ml_snapshots_start (struct ml_ring *ring_, struct ml_store *store_)
{
  ring = ring_;
  store = store_;
}

/* Return the time of the monotonic clock in milliseconds. */
static uint64_t
now_ms (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (uint64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Open the gate unless it must stay closed. Holds that are too old are lost. With the lock held. */
static void
open_if_possible (void)
{
  if (!(atomic_load (&ml_gate) & ML_GATE_CLOSED) || is_taking)
    return;
  if (holds && now_ms () < open_from_ms)
    return;
  for (struct ml_snapshot *snapshot = snapshots; snapshot; snapshot = snapshot->next)
    if (snapshot->holds) {
      snapshot->holds = 0;
      snapshot->lost = 1;
    }
  holds = 0;
  atomic_fetch_sub (&ml_gate, ML_GATE_CLOSED);
  pthread_cond_broadcast (&changed);
}

void
ml_wait_at_gate (void)
{
  struct timespec until;

  pthread_mutex_lock (&lock);
  for (;;) {
    open_if_possible ();
    if (!(atomic_load (&ml_gate) & ML_GATE_CLOSED))
      break;
    clock_gettime (CLOCK_REALTIME, &until);
    until.tv_nsec += LOOK_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait (&changed, &lock, &until);
  }
  pthread_mutex_unlock (&lock);
}

/* C1. */
static void
close_gate (void)
{
  pthread_mutex_lock (&lock);
  open_if_possible ();  /* A hold that is too old doesn't last longer because of this snapshot. */
  is_taking = 1;
  if (!(atomic_fetch_or (&ml_gate, ML_GATE_CLOSED) & ML_GATE_CLOSED))
    open_from_ms = now_ms () + GATE_MS;
  pthread_mutex_unlock (&lock);
  atomic_thread_fence (memory_order_seq_cst);
}

/* The end of C4. is_taken: there is one snapshot more than before; is_hold: it holds the gate. */
static void
end_taking (struct ml_snapshot *snapshot, int is_taken, int is_hold)
{
  pthread_mutex_lock (&lock);
  is_taking = 0;
  if (is_taken)
    atomic_fetch_add (&ml_gate, 2);
  if (is_taken && is_hold) {
    snapshot->holds = 1;
    holds++;
  }
  open_if_possible ();
  pthread_mutex_unlock (&lock);
}

/* Let the gate open as far as this snapshot holds it. With the lock held. */
static void
end_hold (struct ml_snapshot *snapshot)
{
  if (!snapshot->holds)
    return;
  snapshot->holds = 0;
  holds--;
  open_if_possible ();
}

int
ml_snapshot_release (struct ml_snapshot *snapshot)
{
  int lost;

  pthread_mutex_lock (&lock);
  end_hold (snapshot);
  lost = snapshot->lost;
  pthread_mutex_unlock (&lock);
  return lost ? ESTALE : 0;
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

/* C1 to C4. Return 0, or an errno. */
static int
take (struct ml_snapshot *snapshot, int is_hold)
{
  struct ml_waiter closed = { 0 }, *position = &snapshot->position;
  int code;

  pthread_mutex_lock (&taking);
  closed.position = ML_SNAPSHOT_POSITION | 2 * taken++;
  position->position = closed.position + 1;
  position->text = snapshot->description;
  position->text_size = sizeof snapshot->description;
  ml_waiter_add (&closed);
  ml_waiter_add (position);
  close_gate ();
  code = wait_for_writes ();
  if (code == 0)
    code = ml_send (ML_CLOSE_BATCH, closed.position, 0, 0);
  if (code == 0)
    code = ml_waiter_wait (&closed, GATE_MS);
  else
    ml_waiter_remove (&closed);
  if (code == 0 && (snapshot->number = ml_store_take (store)) < 0)
    code = EMFILE;
  end_taking (snapshot, code == 0, is_hold);
  pthread_mutex_unlock (&taking);
  if (code)
    ml_waiter_remove (position);
  return code;
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
  if (is_last) {
    end_hold (snapshot);
    for (struct ml_snapshot **at = &snapshots; *at; at = &(*at)->next)
      if (*at == snapshot) {
        *at = snapshot->next;
        break;
      }
  }
  pthread_mutex_unlock (&lock);
  if (!is_last)
    return;
  ml_waiter_remove (&snapshot->position);
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
  case EEXIST:
    return "a hold begins a snapshot: there is one with this name already";
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

/* Return the snapshot of a token with one user more. Set *is_new if there was none. Return NULL if
 * there is no memory.
 */
static struct ml_snapshot *
find_or_add (const char *token, int *is_new)
{
  struct ml_snapshot *snapshot;

  pthread_mutex_lock (&lock);
  snapshot = find (token);
  *is_new = !snapshot;
  if (*is_new && (snapshot = calloc (1, sizeof *snapshot))) {
    strcpy (snapshot->token, token);
    snapshot->number = -1;
    snapshot->next = snapshots;
    snapshots = snapshot;
  }
  if (snapshot)
    snapshot->users++;
  while (snapshot && !*is_new && !snapshot->is_ready)
    pthread_cond_wait (&changed, &lock);
  pthread_mutex_unlock (&lock);
  return snapshot;
}

struct ml_snapshot *
ml_snapshot_open (const char *token, int is_hold, const char **problem)
{
  struct ml_snapshot *snapshot;
  int is_new, code;

  if (!store || !*token || strlen (token) > TOKEN_BYTES) {
    *problem = store ? "the name of a snapshot has 1 to 64 characters" : "there are no snapshots";
    return NULL;
  }
  snapshot = find_or_add (token, &is_new);
  if (!snapshot) {
    *problem = "no memory for a snapshot";
    return NULL;
  }
  if (is_new) {
    code = take (snapshot, is_hold);
    pthread_mutex_lock (&lock);
    snapshot->code = code;
    snapshot->is_ready = 1;
    pthread_cond_broadcast (&changed);
    pthread_mutex_unlock (&lock);
  }
  code = snapshot->code;
  if (code == 0 && is_hold && !is_new)
    code = EEXIST;
  if (code == 0 && !is_hold)
    code = ml_waiter_wait (&snapshot->position, POSITION_MS);  /* C5 */
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

uint64_t
ml_snapshot_unchanged (struct ml_snapshot *snapshot, uint64_t offset, uint64_t length)
{
  return ml_store_unchanged (store, snapshot->number, offset, length);
}
