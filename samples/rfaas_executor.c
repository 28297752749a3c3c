/*
 * Runs one function of one client. rfaas_manager starts it and hands it the
 * client's connection. The library's bytes go from the socket straight into
 * the mapped memfd, as RDMA would put them there, and are loaded by the name of
 * the descriptor.
 */
#include "rfaas_protocol.h"

#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* For a debugger: set var executor_wait = 0 */
volatile int executor_wait = 1;

static const char help[] =
    "Usage: %s --connection FD [OPTION]...\n"
    "Receive a library from a client, call the function that it asks for, and send\n"
    "the result. rfaas_manager starts this program.\n"
    "\n"
    "  --connection FD  the socket that leads to the client\n"
    "  --fd N           put the memfd on descriptor N (as memfd_create gives it)\n"
    "  --cure           load /proc/PID/fd/N, not /proc/self/fd/N\n"
    "  --wait           between dlopen and the call, print \"ready PID\" and wait\n"
    "                   for a debugger to set executor_wait to 0\n"
    "  --wait-before    the same before dlopen\n"
    "  --timeout S      end after S seconds, also if debugged (600; 0: never)\n"
    "  --help           this text\n";

enum { OPT_CONNECTION = 256, OPT_FD, OPT_CURE, OPT_WAIT, OPT_WAIT_BEFORE, OPT_TIMEOUT, OPT_HELP };

static const struct option options[] = {
	{ "connection", required_argument, NULL, OPT_CONNECTION },
	{ "fd", required_argument, NULL, OPT_FD },
	{ "cure", no_argument, NULL, OPT_CURE },
	{ "wait", no_argument, NULL, OPT_WAIT },
	{ "wait-before", no_argument, NULL, OPT_WAIT_BEFORE },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

/* Tells the client and the log why there is no result, and exits. */
_Noreturn static void refuse(int connection, const char *what, const char *why)
{
	struct rfaas_reply reply = { .magic = RFAAS_REPLY_MAGIC, .failed = 1 };

	snprintf(reply.message, sizeof reply.message, "%s: %s", what, why);
	/* The client may be gone: then the log is all there is. */
	if (!rfaas_send(connection, &reply, sizeof reply))
		die("%s (and the client does not hear it: %s)", reply.message, strerror(errno));
	die("%s", reply.message);
}

int main(int argc, char **argv)
{
	struct rfaas_request request;
	struct rfaas_reply reply = { .magic = RFAAS_REPLY_MAGIC };
	int connection = -1, number = -1, timeout = TIMEOUT_SECONDS, option, fd;
	bool cure = false, wait = false, wait_before = false;
	char name[64];
	const char *error;
	void *memory, *library;
	function_t function;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case OPT_CONNECTION: connection = parse_number("--connection", optarg, 0, 1 << 20); break;
		case OPT_FD: number = parse_number("--fd", optarg, 0, 4096); break;
		case OPT_CURE: cure = true; break;
		case OPT_WAIT: wait = true; break;
		case OPT_WAIT_BEFORE: wait_before = true; break;
		case OPT_TIMEOUT: timeout = parse_number("--timeout", optarg, 0, 1 << 30); break;
		case OPT_HELP:
			printf(help, program_invocation_short_name);
			flush_output();
			return EXIT_SUCCESS;
		default: return EXIT_FAILURE; /* getopt_long has said why */
		}
	}
	if (optind < argc)
		die("%s: takes no such argument; see --help", argv[optind]);
	if (connection < 0)
		die("--connection is missing; see --help");
	rfaas_end_after(timeout);
	if (number >= 0) {
		connection = keep_clear_of(connection, number, number);
		keep_output_clear_of(number, number);
	}

	if (!rfaas_receive(connection, &request, sizeof request))
		refuse(connection, "receive the request", strerror(errno));
	if (memcmp(request.magic, RFAAS_REQUEST_MAGIC, sizeof request.magic))
		refuse(connection, "the request", "not of this protocol");
	if (!request.library_size || request.library_size > LIBRARY_MAX)
		refuse(connection, "the library's size", "out of bounds");
	if (!*request.function || !memchr(request.function, '\0', sizeof request.function))
		refuse(connection, "the function's name", "empty or without an end");

	fd = make_file("libfunction", request.library_size);
	if (number >= 0)
		fd = move_fd(fd, number);
	memory = map_file(fd, request.library_size);
	if (!rfaas_receive(connection, memory, request.library_size))
		refuse(connection, "receive the library", strerror(errno));

	if (cure)
		snprintf(name, sizeof name, "/proc/%d/fd/%d", (int)getpid(), fd);
	else
		snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	/* No timeout of its own: the one of the whole program holds. */
	if (wait_before)
		wait_while(&executor_wait, 0);
	library = dlopen(name, RTLD_NOW);
	if (!library)
		refuse(connection, "dlopen", dlerror());
	if (wait)
		wait_while(&executor_wait, 0);
	function = find_function(library, request.function, &error);
	if (!function)
		refuse(connection, "dlsym", error);
	reply.result = function(request.argument);
	if (!rfaas_send(connection, &reply, sizeof reply))
		die_errno("send the reply");
	return EXIT_SUCCESS;
}
