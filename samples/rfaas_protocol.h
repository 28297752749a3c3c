/*
 * How the rFaaS-like programs talk: over a Unix stream socket, in place of
 * RDMA. One connection is one call of one function:
 *
 *   client                manager                 executor
 *     | connect             |                        |
 *     |-------------------->| accept, fork, exec     |
 *     |                     |----------------------->| has the connection
 *     | struct rfaas_request, then library_size bytes of the library
 *     |--------------------------------------------->| received into the memfd
 *     | struct rfaas_reply                           | dlopen, dlsym, call
 *     |<---------------------------------------------| exit
 *
 * Numbers are in the byte order of the machine, on which both ends are.
 */
#ifndef WHOSEFD_SAMPLES_RFAAS_PROTOCOL_H
#define WHOSEFD_SAMPLES_RFAAS_PROTOCOL_H

#include "common.h"

#include <sys/un.h>

#define RFAAS_REQUEST_MAGIC "rFaaSrq1" /* 8 bytes, no NUL */
#define RFAAS_REPLY_MAGIC "rFaaSrp1"

struct rfaas_request {
	char magic[8] __attribute__((nonstring));
	uint64_t library_size; /* bytes, 1..LIBRARY_MAX */
	int32_t argument;
	char function[60];     /* its name, ended by a NUL */
};

struct rfaas_reply {
	char magic[8] __attribute__((nonstring));
	int32_t failed;        /* 0: result holds; else message says why not */
	int32_t result;
	char message[240];     /* ended by a NUL */
};

_Static_assert(sizeof(struct rfaas_request) == 80, "no padding on the wire");
_Static_assert(sizeof(struct rfaas_reply) == 256, "no padding on the wire");

/* The address of a socket's path; dies if it does not fit. */
struct sockaddr_un rfaas_address(const char *path);

/* Sends all of it, without SIGPIPE. False with errno where that fails. */
bool rfaas_send(int socket, const void *data, size_t size);

/* Receives all of it, straight into data. False with errno where that fails;
 * ENODATA where the other end closed the connection before. */
bool rfaas_receive(int socket, void *data, size_t size);

/* Ends the program with a message and status 1 after so many seconds, whatever
 * it is doing then; 0: never. */
void rfaas_end_after(int seconds);

#endif
