/* See snapshot_store.h. One lock guards all of a store. Nothing is read or written with it held,
 * except for copies from the store's memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "snapshot_store.h"
#include "snapshot_units.h"

#define CHUNK 64  /* A writer keeps as many units at a time. */
#define WARM_BYTES (16u << 20)  /* So much memory isn't given back when the store is empty. */

/* slots: how many units the store may keep. The first memory_slots of them are in `memory`.
 * references: by slot, how many entries name it. free_slots: those below next_slot that are free.
 */
struct ml_store {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  uint64_t size_bytes, taken, slots, memory_slots, next_slot, free_count;
  struct snapshot snapshots[ML_SNAPSHOTS];
  char *memory;
  int fd;
  uint8_t *references;
  uint32_t *free_slots;
};

/* A unit that a writer keeps. lacking: a bit for each snapshot that lacks it. */
struct wanted {
  uint32_t lacking, slot;
};

struct ml_store *
ml_store_new (uint64_t size_bytes, uint64_t memory_bytes, int fd, uint64_t file_bytes)
{
  struct ml_store *store = calloc (1, sizeof *store);

  if (!store)
    return NULL;
  store->size_bytes = size_bytes;
  store->memory_slots = memory_bytes / ML_KEPT_BYTES;
  store->slots = store->memory_slots + (fd < 0 ? 0 : file_bytes / ML_KEPT_BYTES);
  if (store->slots > ZEROS)
    store->slots = ZEROS;
  if (store->memory_slots > store->slots)
    store->memory_slots = store->slots;
  store->fd = fd;
  store->memory = mmap (NULL, store->memory_slots * ML_KEPT_BYTES + 1, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  store->references = calloc (store->slots + 1, 1);
  store->free_slots = malloc ((store->slots + 1) * sizeof *store->free_slots);
  pthread_mutex_init (&store->lock, NULL);
  pthread_cond_init (&store->changed, NULL);
  if (store->memory == MAP_FAILED || !store->references || !store->free_slots) {
    ml_store_free (store);
    return NULL;
  }
  return store;
}

void
ml_store_free (struct ml_store *store)
{
  for (int i = 0; i < ML_SNAPSHOTS; i++)
    free (store->snapshots[i].entries);
  if (store->memory != MAP_FAILED)
    munmap (store->memory, store->memory_slots * ML_KEPT_BYTES + 1);
  free (store->references);
  free (store->free_slots);
  free (store);
}

static void
release_slot (struct ml_store *store, uint32_t slot)
{
  if (slot != ZEROS && --store->references[slot] == 0)
    store->free_slots[store->free_count++] = slot;
}

/* Forget all units of a snapshot. When the store is empty, give back its memory and its disk. */
static void
clear (struct ml_store *store, struct snapshot *snapshot)
{
  for (uint64_t i = 0; i < snapshot->size; i++)
    if (snapshot->entries[i].state == KEPT)
      release_slot (store, snapshot->entries[i].slot);
  free (snapshot->entries);
  snapshot->entries = NULL;
  snapshot->size = snapshot->count = 0;
  if (store->free_count == store->next_slot) {
    uint64_t memory_bytes = store->memory_slots * ML_KEPT_BYTES;

    if (memory_bytes > WARM_BYTES && store->next_slot * ML_KEPT_BYTES > WARM_BYTES)
      madvise (store->memory + WARM_BYTES, memory_bytes - WARM_BYTES, MADV_DONTNEED);
    /* If that fails, the file stays as large as it is, below its bound. */
    if (store->next_slot > store->memory_slots)
      (void) !ftruncate (store->fd, 0);
    store->next_slot = store->free_count = 0;
  }
  pthread_cond_broadcast (&store->changed);
}

static int
is_usable (const struct snapshot *snapshot)
{
  return snapshot->in_use && !snapshot->broken;
}

static void
break_snapshot (struct ml_store *store, struct snapshot *snapshot, int code)
{
  snapshot->broken = code;
  clear (store, snapshot);
}

/* Break those of these snapshots that aren't broken yet. */
static void
break_lacking (struct ml_store *store, uint32_t lacking, int code)
{
  for (int i = 0; i < ML_SNAPSHOTS; i++)
    if (lacking & 1u << i && is_usable (&store->snapshots[i]))
      break_snapshot (store, &store->snapshots[i], code);
}

/* Break the oldest snapshot to make room. Return -1 if there is none. */
static int
break_oldest (struct ml_store *store)
{
  struct snapshot *oldest = NULL;

  for (int i = 0; i < ML_SNAPSHOTS; i++) {
    struct snapshot *snapshot = &store->snapshots[i];
    if (is_usable (snapshot) && (!oldest || snapshot->taken < oldest->taken))
      oldest = snapshot;
  }
  if (!oldest)
    return -1;
  break_snapshot (store, oldest, ENOSPC);
  return 0;
}

int
ml_store_take (struct ml_store *store)
{
  int taken = -1;

  pthread_mutex_lock (&store->lock);
  for (int i = 0; i < ML_SNAPSHOTS && taken < 0; i++)
    if (!store->snapshots[i].in_use) {
      store->snapshots[i] = (struct snapshot){ .in_use = 1, .taken = store->taken++ };
      taken = i;
    }
  pthread_mutex_unlock (&store->lock);
  return taken;
}

void
ml_store_drop (struct ml_store *store, int snapshot)
{
  pthread_mutex_lock (&store->lock);
  clear (store, &store->snapshots[snapshot]);
  store->snapshots[snapshot].in_use = 0;
  pthread_mutex_unlock (&store->lock);
}

/* Mark the units PENDING that a snapshot lacks, or break it if there are too many. */
static void
insert_pending (struct ml_store *store, int number, uint64_t first, uint32_t count,
                const struct wanted *wanted)
{
  struct snapshot *snapshot = &store->snapshots[number];
  uint32_t more = 0;

  for (uint32_t i = 0; i < count; i++)
    more += wanted[i].lacking >> number & 1;
  /* Zeros need no slot, so the entries have a bound of their own. */
  if (snapshot->count + more > store->slots || grow (snapshot, more) < 0) {
    break_snapshot (store, snapshot, ENOSPC);
    return;
  }
  for (uint32_t i = 0; i < count; i++)
    if (wanted[i].lacking >> number & 1)
      *find (snapshot, first + i) = (struct entry){ first + i, ZEROS, PENDING };
  snapshot->count += more;
}

/* K1 with the lock held. Set `lacking` of `count` units from `first` on, and return whether any
 * snapshot lacks one of them.
 */
static int
mark_pending (struct ml_store *store, uint64_t first, uint32_t count, struct wanted *wanted)
{
  uint32_t any;

again:
  any = 0;
  for (uint32_t i = 0; i < count; i++) {
    wanted[i].lacking = 0;
    for (int s = 0; s < ML_SNAPSHOTS; s++) {
      struct snapshot *snapshot = &store->snapshots[s];
      struct entry *entry;

      if (!is_usable (snapshot))
        continue;
      entry = snapshot->size ? find (snapshot, first + i) : NULL;
      if (!entry || entry->state == FREE)
        wanted[i].lacking |= 1u << s;
      else if (entry->state == PENDING) {
        pthread_cond_wait (&store->changed, &store->lock);
        goto again;
      }
    }
    any |= wanted[i].lacking;
  }
  for (int s = 0; s < ML_SNAPSHOTS; s++)
    if (any & 1u << s)
      insert_pending (store, s, first, count, wanted);
  return any != 0;
}

/* Return a slot for the caller, or ZEROS if all snapshots are broken. The lock is held. */
static uint32_t
take_slot (struct ml_store *store)
{
  uint32_t slot;

  while (!store->free_count && store->next_slot == store->slots)
    if (break_oldest (store) < 0)
      return ZEROS;
  slot = store->free_count ? store->free_slots[--store->free_count] : store->next_slot++;
  store->references[slot] = 1;
  return slot;
}

/* K3. Return 0, or -1 if the file doesn't take it. */
static int
write_slot (struct ml_store *store, uint32_t slot, const char *data)
{
  if (slot < store->memory_slots) {
    memcpy (store->memory + (uint64_t) slot * ML_KEPT_BYTES, data, ML_KEPT_BYTES);
    return 0;
  }
  return pwrite (store->fd, data, ML_KEPT_BYTES,
                 (off_t) (slot - store->memory_slots) * ML_KEPT_BYTES) == ML_KEPT_BYTES ? 0 : -1;
}

static int
is_zeros (const char *data)
{
  return data[0] == 0 && memcmp (data, data + 1, ML_KEPT_BYTES - 1) == 0;
}

/* K4 with the lock held: name the slot in each snapshot that lacks the unit, and give up the
 * caller's reference.
 */
static void
publish (struct ml_store *store, uint64_t unit, const struct wanted *wanted)
{
  for (int s = 0; s < ML_SNAPSHOTS; s++) {
    struct snapshot *snapshot = &store->snapshots[s];

    if (!(wanted->lacking & 1u << s) || !is_usable (snapshot))
      continue;
    *find (snapshot, unit) = (struct entry){ unit, wanted->slot, KEPT };
    if (wanted->slot != ZEROS)
      store->references[wanted->slot]++;
  }
  release_slot (store, wanted->slot);
}

/* K2 to K4 for units that mark_pending() has marked. */
static void
keep_units (struct ml_store *store, uint64_t first, uint32_t count, struct wanted *wanted,
            ml_read_primary *read_primary, void *context)
{
  uint64_t offset = first * ML_KEPT_BYTES, length = (uint64_t) count * ML_KEPT_BYTES;
  char one[ML_KEPT_BYTES], *data = count == 1 ? one : malloc (length);
  int code = data ? 0 : ENOMEM;

  if (offset + length > store->size_bytes) {  /* The last unit may be short; zeros follow it. */
    if (data)
      memset (data + (store->size_bytes - offset), 0, offset + length - store->size_bytes);
    length = store->size_bytes - offset;
  }
  if (!code && read_primary (context, data, length, offset) < 0)
    code = EIO;
  pthread_mutex_lock (&store->lock);
  for (uint32_t i = 0; i < count; i++) {
    wanted[i].slot = ZEROS;
    if (wanted[i].lacking && !code && !is_zeros (data + (uint64_t) i * ML_KEPT_BYTES))
      wanted[i].slot = take_slot (store);
  }
  pthread_mutex_unlock (&store->lock);
  for (uint32_t i = 0; i < count && !code; i++)
    if (wanted[i].slot != ZEROS
        && write_slot (store, wanted[i].slot, data + (uint64_t) i * ML_KEPT_BYTES) < 0)
      code = EIO;
  pthread_mutex_lock (&store->lock);
  for (uint32_t i = 0; i < count; i++) {
    if (code)
      break_lacking (store, wanted[i].lacking, code);
    publish (store, first + i, &wanted[i]);
  }
  pthread_cond_broadcast (&store->changed);
  pthread_mutex_unlock (&store->lock);
  if (data != one)
    free (data);
}

void
ml_store_keep (struct ml_store *store, uint64_t offset, uint64_t length,
               ml_read_primary *read_primary, void *context)
{
  uint64_t first = offset / ML_KEPT_BYTES, end = (offset + length - 1) / ML_KEPT_BYTES + 1;
  struct wanted wanted[CHUNK];

  for (uint32_t count; first < end; first += count) {
    int any;

    count = end - first < CHUNK ? end - first : CHUNK;
    pthread_mutex_lock (&store->lock);
    any = mark_pending (store, first, count, wanted);
    pthread_mutex_unlock (&store->lock);
    if (any)
      keep_units (store, first, count, wanted, read_primary, context);
  }
}

/* Copy the part of a unit that lies in [offset, offset + length) to its place in `buf`. */
static void
copy_part (char *buf, uint64_t offset, uint64_t length, uint64_t unit, const char *data)
{
  uint64_t start = unit * ML_KEPT_BYTES, end = start + ML_KEPT_BYTES;
  uint64_t from = start > offset ? start : offset;
  uint64_t until = end < offset + length ? end : offset + length;

  if (data)
    memcpy (buf + (from - offset), data + (from - start), until - from);
  else
    memset (buf + (from - offset), 0, until - from);
}

/* S2 for `count` units, but for those in the file: set their slots, and ZEROS for all others. */
static int
read_memory (struct ml_store *store, int number, uint64_t first, uint32_t count, uint64_t offset,
             uint64_t length, char *buf, uint32_t *in_file)
{
  struct snapshot *snapshot = &store->snapshots[number];
  int broken;

  pthread_mutex_lock (&store->lock);
  broken = snapshot->broken;
  for (uint32_t i = 0; i < count; i++) {
    struct entry *entry = broken || !snapshot->size ? NULL : find (snapshot, first + i);

    in_file[i] = ZEROS;
    if (!entry || entry->state != KEPT)
      continue;
    if (entry->slot == ZEROS)
      copy_part (buf, offset, length, first + i, NULL);
    else if (entry->slot < store->memory_slots)
      copy_part (buf, offset, length, first + i,
                 store->memory + (uint64_t) entry->slot * ML_KEPT_BYTES);
    else
      in_file[i] = entry->slot - store->memory_slots;
  }
  pthread_mutex_unlock (&store->lock);
  return broken;
}

int
ml_store_read (struct ml_store *store, int snapshot, uint64_t offset, uint64_t length, void *buf)
{
  uint64_t first = offset / ML_KEPT_BYTES, end;
  uint32_t in_file[CHUNK];
  char data[ML_KEPT_BYTES];
  int code = 0;

  if (!length)
    return 0;
  end = (offset + length - 1) / ML_KEPT_BYTES + 1;
  for (uint32_t count; first < end && !code; first += count) {
    count = end - first < CHUNK ? end - first : CHUNK;
    code = read_memory (store, snapshot, first, count, offset, length, buf, in_file);
    for (uint32_t i = 0; i < count && !code; i++)
      if (in_file[i] != ZEROS) {
        if (pread (store->fd, data, sizeof data, (off_t) in_file[i] * ML_KEPT_BYTES)
            != sizeof data)
          code = EIO;
        copy_part (buf, offset, length, first + i, data);
      }
  }
  /* A snapshot that has broken meanwhile no longer owns what was read from the file. */
  return code ? code : ml_store_broken (store, snapshot);
}

uint64_t
ml_store_unchanged (struct ml_store *store, int snapshot, uint64_t offset, uint64_t length)
{
  const struct snapshot *of = &store->snapshots[snapshot];
  uint64_t first = offset / ML_KEPT_BYTES, end;

  if (!length)
    return 0;
  end = (offset + length - 1) / ML_KEPT_BYTES + 1;
  pthread_mutex_lock (&store->lock);
  end = of->broken ? first : first_kept (of, first, end);
  pthread_mutex_unlock (&store->lock);
  if (end == first)
    return 0;
  end *= ML_KEPT_BYTES;
  return end - offset < length ? end - offset : length;
}

int
ml_store_broken (struct ml_store *store, int snapshot)
{
  int broken;

  pthread_mutex_lock (&store->lock);
  broken = store->snapshots[snapshot].broken;
  pthread_mutex_unlock (&store->lock);
  return broken;
}

uint64_t
ml_store_used (struct ml_store *store)
{
  uint64_t used;

  pthread_mutex_lock (&store->lock);
  used = store->next_slot - store->free_count;
  pthread_mutex_unlock (&store->lock);
  return used;
}
