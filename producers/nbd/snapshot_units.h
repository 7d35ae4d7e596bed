/* The units that one snapshot keeps, as a hash table: part of snapshot_store.c. */
#ifndef MIRRORLOG_SNAPSHOT_UNITS_H
#define MIRRORLOG_SNAPSHOT_UNITS_H

#include <stdint.h>
#include <stdlib.h>

#define ZEROS UINT32_MAX

enum { FREE = 0, PENDING, KEPT };

/* A unit of a snapshot. slot: where its old contents are; ZEROS if they are zeros. */
struct entry {
  uint64_t unit;
  uint32_t slot, state;
};

/* taken: the order in which the snapshots were taken. entries: a hash table with open addressing,
 * whose size is a power of two.
 */
struct snapshot {
  int in_use, broken;
  uint64_t taken, count, size;
  struct entry *entries;
};

/* Return the entry of a unit, or the free one where it belongs. The table isn't full. */
static struct entry *
find (const struct snapshot *snapshot, uint64_t unit)
{
  uint64_t at = (unit * UINT64_C (0x9e3779b97f4a7c15)) >> 20;

  for (;; at++) {
    struct entry *entry = &snapshot->entries[at & (snapshot->size - 1)];
    if (entry->state == FREE || entry->unit == unit)
      return entry;
  }
}

/* Return the first unit in [first, end) that the snapshot keeps, or that a writer is about to keep;
 * `end` if there is none. It looks at each unit, or at the whole table if that is smaller.
 */
static uint64_t
first_kept (const struct snapshot *snapshot, uint64_t first, uint64_t end)
{
  if (!snapshot->count)
    return end;
  if (end - first > snapshot->size) {
    for (uint64_t i = 0; i < snapshot->size; i++) {
      const struct entry *entry = &snapshot->entries[i];
      if (entry->state != FREE && entry->unit >= first && entry->unit < end)
        end = entry->unit;
    }
    return end;
  }
  while (first < end && find (snapshot, first)->state == FREE)
    first++;
  return first;
}

/* Make room for `more` entries. Return 0, or -1 if there is no memory. */
static int
grow (struct snapshot *snapshot, uint64_t more)
{
  struct snapshot larger = *snapshot;

  while ((snapshot->count + more) * 3 > larger.size * 2)
    larger.size = larger.size ? larger.size * 2 : 256;
  if (larger.size == snapshot->size)
    return 0;
  larger.entries = calloc (larger.size, sizeof *larger.entries);
  if (!larger.entries)
    return -1;
  for (uint64_t i = 0; i < snapshot->size; i++)
    if (snapshot->entries[i].state != FREE)
      *find (&larger, snapshot->entries[i].unit) = snapshot->entries[i];
  free (snapshot->entries);
  *snapshot = larger;
  return 0;
}

#endif
