/* See host_link.h. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "forked_writes.h"
#include "host_link.h"

static int link_fd = -1;
static _Atomic int host_gone;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* Guards `waiters`. */
static pthread_cond_t answered = PTHREAD_COND_INITIALIZER;
static struct ml_waiter *waiters;

/* Give an answer to its waiter. With the lock held. */
static void
deliver (struct ml_waiter *waiter, const struct ml_message *answer, const char *text, size_t size)
{
  if (waiter->text && waiter->text_size) {
    if (size >= waiter->text_size)
      size = waiter->text_size - 1;
    memcpy (waiter->text, text, size);
    waiter->text[size] = '\0';
  }
  waiter->code = (int) answer->what;
  waiter->answered = 1;
}

/* Give the answers of a packet of at least one to their waiters. With the lock held. */
static void
deliver_all (const char *packet, size_t size)
{
  struct ml_message answer;
  uint32_t more;

  do {
    memcpy (&answer, packet, sizeof answer);
    packet += sizeof answer;
    size -= sizeof answer;
    more = answer.more;
    for (struct ml_waiter *waiter = waiters; waiter; waiter = waiter->next)
      if (waiter->position == answer.position)
        deliver (waiter, &answer, packet, size);
  } while (more && size >= sizeof answer);
}

/* Receive one packet of at most `size` bytes, and the descriptor that came with it, or -1. */
static ssize_t
receive (char *packet, size_t size, int *fd)
{
  union { struct cmsghdr head; char bytes[CMSG_SPACE (sizeof (int))]; } control;
  struct iovec part = { packet, size };
  struct msghdr message = {
    .msg_iov = &part, .msg_iovlen = 1,
    .msg_control = control.bytes, .msg_controllen = sizeof control.bytes,
  };
  ssize_t got = recvmsg (link_fd, &message, MSG_CMSG_CLOEXEC);
  struct cmsghdr *head = got < 0 ? NULL : CMSG_FIRSTHDR (&message);

  *fd = -1;
  if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS
      && head->cmsg_len == CMSG_LEN (sizeof (int)))
    memcpy (fd, CMSG_DATA (head), sizeof *fd);
  return got;
}

/* Receive the host's answers until the host closes its end of the socket or dies. Then fail those
 * that wait.
 */
static void *
receive_answers (void *unused)
{
  char packet[ML_MOST_ANSWERS * sizeof (struct ml_message) + ML_TEXT_BYTES];
  struct ml_message answer;
  ssize_t got;
  int fd;

  (void) unused;
  for (;;) {
    got = receive (packet, sizeof packet, &fd);
    if (got < 0 && errno == EINTR)
      continue;
    if (got >= (ssize_t) sizeof answer) {
      memcpy (&answer, packet, sizeof answer);
      if (answer.position < ML_FLUSH_POSITION && answer.position & ML_FILE_POSITION) {
        ml_forked_file (answer.position & ~ML_FILE_POSITION, answer.offset, fd);
        continue;
      }
    }
    if (fd >= 0)
      close (fd);  /* No other message has one. */
    pthread_mutex_lock (&lock);
    if (got < (ssize_t) sizeof answer)
      atomic_store (&host_gone, 1);
    else
      deliver_all (packet, got);
    pthread_cond_broadcast (&answered);
    pthread_mutex_unlock (&lock);
    if (got < (ssize_t) sizeof answer)
      return NULL;
  }
}

int
ml_link_start (int fd)
{
  pthread_t receiver;
  int code;

  link_fd = fd;
  code = pthread_create (&receiver, NULL, receive_answers, NULL);
  if (code == 0)
    pthread_detach (receiver);
  return code;
}

int
ml_host_is_gone (void)
{
  return atomic_load (&host_gone);
}

/* Return 1 if somebody waits for the answer to such a message. */
static int
has_answer (uint32_t what)
{
  return what != ML_NOTIFY && what != ML_GRANT_AHEAD;
}

int
ml_send (uint32_t what, uint64_t position, uint64_t offset, uint64_t length)
{
  const struct ml_message message = { what, 0, position, offset, length };
  ssize_t sent;

  do
    sent = send (link_fd, &message, sizeof message,
                 MSG_NOSIGNAL | (has_answer (what) ? 0 : MSG_DONTWAIT));
  while (sent < 0 && errno == EINTR);
  return sent == sizeof message ? 0 : EIO;
}

void
ml_waiter_add (struct ml_waiter *waiter)
{
  waiter->answered = waiter->code = 0;
  pthread_mutex_lock (&lock);
  waiter->next = waiters;
  waiters = waiter;
  pthread_mutex_unlock (&lock);
}

/* Take a waiter from the list. With the lock held. */
static void
unlist (struct ml_waiter *waiter)
{
  for (struct ml_waiter **at = &waiters; *at; at = &(*at)->next)
    if (*at == waiter) {
      *at = waiter->next;
      break;
    }
}

int
ml_waiter_wait (struct ml_waiter *waiter, unsigned deadline_ms)
{
  struct timespec until;
  int code = 0;

  clock_gettime (CLOCK_REALTIME, &until);
  until.tv_nsec += (long) (deadline_ms % 1000) * 1000000;
  until.tv_sec += deadline_ms / 1000 + until.tv_nsec / 1000000000;
  until.tv_nsec %= 1000000000;
  pthread_mutex_lock (&lock);
  while (!waiter->answered && !atomic_load (&host_gone) && code != ETIMEDOUT)
    code = deadline_ms ? pthread_cond_timedwait (&answered, &lock, &until)
                       : pthread_cond_wait (&answered, &lock);
  if (waiter->answered)
    code = waiter->code;
  else if (atomic_load (&host_gone))
    code = EIO;
  unlist (waiter);
  pthread_mutex_unlock (&lock);
  return code;
}

void
ml_waiter_remove (struct ml_waiter *waiter)
{
  pthread_mutex_lock (&lock);
  unlist (waiter);
  pthread_mutex_unlock (&lock);
}
