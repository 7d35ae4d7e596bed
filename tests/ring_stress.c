/* Real threads on a real ring: writers that write without asking, and a host that revokes regions
 * and grants them again, each with a marker.
 *
 * `logged` stands for the activity log. A writer that may write must find its region there,
 * before and after its data. The program prints how many writes were done and how often a region
 * left the log. It exits with 1 if a writer found that its region had left, or if the host
 * counted other writes than the writers did. argv: how many of each there are at least. It includes
 * ring.c, which test_nbd_region_grants.py puts into the same folder.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "ring.c"

#define WRITERS 3
#define REGIONS 4
#define SLOTS 64

static struct ml_ring *ring;
static _Atomic int logged[REGIONS];
static _Atomic int stop, violated;
static _Atomic uint64_t done;  /* Writes that were allowed. */

static void *
write_until_stopped (void *seed)
{
  unsigned random = (unsigned) (uintptr_t) seed;
  uint64_t position;

  while (!atomic_load_explicit (&stop, memory_order_relaxed)) {
    random = random * 1664525u + 1013904223u;
    uint64_t region = (random >> 16) % REGIONS;
    if (ml_begin (ring, ML_WRITE, region, 1, 0, &position)) {
      sched_yield ();
      continue;
    }
    if (ml_may_write (ring, region, 1)) {
      int was_logged = atomic_load_explicit (&logged[region], memory_order_relaxed);
      for (volatile int i = 0; i < 20; i++)
        ;
      ml_clear_markers (ring, region, 1);
      if (!was_logged || !atomic_load_explicit (&logged[region], memory_order_relaxed))
        atomic_store (&violated, 1);
      atomic_fetch_add_explicit (&done, 1, memory_order_relaxed);
      ml_end (ring, position, ML_ENDED, ML_WRITE);
    } else
      ml_end (ring, position, ML_VOID, ML_WRITE);
  }
  return NULL;
}

int
main (int argc, char **argv)
{
  static struct ml_extent ended[SLOTS], in_flight[SLOTS];
  uint64_t ended_count, in_flight_count, taken = 0, left = 0;
  uint64_t wanted = argc > 1 ? strtoul (argv[1], NULL, 10) : 1000;
  pthread_t writers[WRITERS];

  ring = aligned_alloc (64, sizeof *ring + SLOTS * sizeof (struct ml_slot) + 64);
  *ring = (struct ml_ring){
    .magic = ML_MAGIC, .slots = SLOTS, .region_bytes = 1, .size_bytes = REGIONS, .regions = REGIONS
  };
  for (int i = 0; i < SLOTS; i++)
    ring->slot[i] = (struct ml_slot){ 0 };
  for (uint64_t region = 0; region < REGIONS; region++)
    *ml_granted (ring, region) = logged[region] = 1;
  for (uintptr_t i = 0; i < WRITERS; i++)
    pthread_create (&writers[i], NULL, write_until_stopped, (void *) (i + 1));
  for (uint64_t round = 0; left < wanted || atomic_load (&done) < wanted; round++) {
    uint64_t region = round % REGIONS;
    for (volatile int i = 0; i < (int) (round % 97); i++)
      ;
    uint64_t begun = ml_ring_revoke (ring, &region, 1);
    do {
      ml_ring_collect (ring, 0, ended, &ended_count, in_flight, &in_flight_count);
      taken += ended_count;
    } while (ml_ring_tail (ring) < begun);
    atomic_store (&logged[region], 0);
    left++;
    for (volatile int i = 0; i < 20; i++)
      ;
    atomic_store (&logged[region], 1);
    ml_ring_grant (ring, &region, 1, region);
  }
  atomic_store (&stop, 1);
  for (int i = 0; i < WRITERS; i++)
    pthread_join (writers[i], NULL);
  ml_ring_collect (ring, 0, ended, &ended_count, in_flight, &in_flight_count);
  taken += ended_count;
  printf ("%lu %lu\n", (unsigned long) done, (unsigned long) left);
  if (violated || taken != done)
    fprintf (stderr, "violated %d, done %lu, taken %lu\n", violated, (unsigned long) done,
             (unsigned long) taken);
  return violated || taken != done;
}
