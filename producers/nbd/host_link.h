/* The filter's end of the socket to the host: messages, and answers that threads wait for. */
#ifndef MIRRORLOG_HOST_LINK_H
#define MIRRORLOG_HOST_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "ring.h"

/* A thread that waits for the answer to its message. text: takes the answer's text, ended by a NUL;
 * it has room for text_size bytes. answered, code: the answer is there, with this errno.
 */
struct ml_waiter {
  uint64_t position;
  char *text;
  size_t text_size;
  int answered, code;
  struct ml_waiter *next;
};

/* Start the thread that receives answers from the host at this descriptor. Return 0 or an errno. */
int ml_link_start (int fd);

/* Return 1 if the host has closed its end of the socket, or is dead. */
int ml_host_is_gone (void);

/* Send a message to the host. Return 0, or EIO if the socket doesn't take it. A message that has no
 * answer doesn't wait for room in the socket.
 */
int ml_send (uint32_t what, uint64_t position, uint64_t offset, uint64_t length);

/* Begin to wait for the answer with waiter->position. Call it before the message is sent. */
void ml_waiter_add (struct ml_waiter *waiter);

/* Wait for the answer, and end to wait. deadline_ms: at most for so long; 0: without an end.
 * Return the answer's code; EIO if the host is gone; ETIMEDOUT.
 */
int ml_waiter_wait (struct ml_waiter *waiter, unsigned deadline_ms);

/* End to wait for an answer that isn't needed. */
void ml_waiter_remove (struct ml_waiter *waiter);

#endif
