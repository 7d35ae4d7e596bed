/* Writes that the filter sends to secondaries too (fork_state.h has the steps). */
#ifndef MIRRORLOG_FORKED_WRITES_H
#define MIRRORLOG_FORKED_WRITES_H

#include <stdint.h>

#include "ring.h"

/* A range of the primary that is being written to. */
struct ml_range {
  uint64_t offset, end;
  struct ml_range *next;
};

/* Start a thread for each secondary of the ring's volume. Return 0 or an errno. */
int ml_forked_start (struct ml_ring *ring);

/* Wait until the queues are empty, for `most_ms` at most. */
void ml_forked_drain (unsigned most_ms);

/* Take the file of a secondary, or give it up if fd is -1. Nothing may be queued for it. */
void ml_forked_file (uint64_t index, uint64_t number, int fd);

/* F1, and its end. Without secondaries they do nothing. */
void ml_range_enter (struct ml_range *range);
void ml_range_leave (struct ml_range *range);

/* F2: end a write at a position of the ring, with W5. data: what it wrote; NULL for zeros.
 * Return its number for ml_forked_wait(); 0 if it failed or there are no secondaries.
 */
uint64_t ml_forked_end (uint64_t position, uint32_t kind, int failed, uint64_t offset,
                        uint32_t length, const void *data);

/* F4. */
void ml_forked_wait (uint64_t number);

/* Return 1 if a flush must reach secondaries, too. */
int ml_forked_flushes (void);

#endif
