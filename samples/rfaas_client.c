/*
 * Ships a library to an executor, has a function in it called there, and
 * prints the result.
 */
#include "rfaas_protocol.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

static const char help[] =
    "Usage: %s --socket PATH [OPTION]... [ARGUMENT]\n"
    "Send a library to rfaas_manager, have FUNCTION(ARGUMENT) called in it and print\n"
    "the result. ARGUMENT is 21 unless given; write -- before a negative one.\n"
    "\n"
    "  --socket PATH    where the manager listens\n"
    "  --lib PATH       the library (lib.so beside this program)\n"
    "  --function NAME  the function in it (foo)\n"
    "  --timeout S      give up after S seconds (600; 0: never)\n"
    "  --help           this text\n";

enum { OPT_SOCKET = 256, OPT_LIB, OPT_FUNCTION, OPT_TIMEOUT, OPT_HELP };

static const struct option options[] = {
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "lib", required_argument, NULL, OPT_LIB },
	{ "function", required_argument, NULL, OPT_FUNCTION },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

int main(int argc, char **argv)
{
	struct rfaas_request request = { .magic = RFAAS_REQUEST_MAGIC, .argument = 21 };
	struct rfaas_reply reply;
	struct sockaddr_un address;
	const char *path = NULL, *lib = NULL, *function = "foo";
	int timeout = TIMEOUT_SECONDS, option, fd, connection, send_error = 0;
	size_t size;
	void *code;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case OPT_SOCKET: path = optarg; break;
		case OPT_LIB: lib = optarg; break;
		case OPT_FUNCTION: function = optarg; break;
		case OPT_TIMEOUT: timeout = parse_number("--timeout", optarg, 0, 1 << 30); break;
		case OPT_HELP:
			printf(help, program_invocation_short_name);
			flush_output();
			return EXIT_SUCCESS;
		default: return EXIT_FAILURE; /* getopt_long has said why */
		}
	}
	if (optind < argc)
		request.argument = parse_number("ARGUMENT", argv[optind++], INT_MIN, INT_MAX);
	if (optind < argc)
		die("%s: one argument is enough; see --help", argv[optind]);
	if (!path)
		die("--socket is missing; see --help");
	if (!*function || strlen(function) >= sizeof request.function)
		die("--function: has %zu bytes, not 1 to %zu", strlen(function),
		    sizeof request.function - 1);
	strcpy(request.function, function);
	rfaas_end_after(timeout);

	if (!lib)
		lib = beside_program("lib.so");
	fd = open_library(lib, &size);
	code = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (code == MAP_FAILED)
		die_errno("mmap %s", lib);
	request.library_size = size;

	connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connection < 0)
		die_errno("socket");
	address = rfaas_address(path);
	if (connect(connection, (struct sockaddr *)&address, sizeof address))
		die_errno("connect to %s", path);
	/* An executor that refuses the request closes early, but has said why
	 * before: look for the reply even where sending failed. */
	if (!rfaas_send(connection, &request, sizeof request) ||
	    !rfaas_send(connection, code, size))
		send_error = errno;
	if (!rfaas_receive(connection, &reply, sizeof reply)) {
		if (send_error) {
			errno = send_error;
			die_errno("send %s", lib);
		}
		if (errno == ENODATA)
			die("the executor ended without a reply");
		die_errno("receive the reply");
	}
	if (memcmp(reply.magic, RFAAS_REPLY_MAGIC, sizeof reply.magic))
		die("%s: what answers there is no rfaas_executor", path);
	if (reply.failed)
		die("the executor says: %.*s", (int)sizeof reply.message, reply.message);
	printf("%s(%d) = %d\n", function, request.argument, reply.result);
	flush_output();
	return EXIT_SUCCESS;
}
