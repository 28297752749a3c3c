#include "rfaas_protocol.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct sockaddr_un rfaas_address(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (!*path || strlen(path) >= sizeof address.sun_path)
		die("socket path '%s': has %zu bytes, not 1 to %zu", path,
		    strlen(path), sizeof address.sun_path - 1);
	strcpy(address.sun_path, path);
	return address;
}

bool rfaas_send(int socket, const void *data, size_t size)
{
	const char *from = data;

	while (size) {
		ssize_t sent = send(socket, from, size, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return false;
		from += sent;
		size -= (size_t)sent;
	}
	return true;
}

bool rfaas_receive(int socket, void *data, size_t size)
{
	char *to = data;

	while (size) {
		ssize_t received = recv(socket, to, size, 0);

		if (received < 0 && errno == EINTR)
			continue;
		if (received < 0)
			return false;
		if (!received) {
			errno = ENODATA;
			return false;
		}
		to += received;
		size -= (size_t)received;
	}
	return true;
}

static void out_of_time(int signal)
{
	static const char message[] = ": time is up (see --timeout)\n";

	(void)signal;
	/* Nothing is left to be done if stderr cannot be written. */
	if (write(STDERR_FILENO, program_invocation_short_name,
	          strlen(program_invocation_short_name)) >= 0 &&
	    write(STDERR_FILENO, message, sizeof message - 1) >= 0)
		_exit(1);
	_exit(1);
}

void rfaas_end_after(int seconds)
{
	struct sigaction action = { .sa_handler = out_of_time };

	if (sigaction(SIGALRM, &action, NULL))
		die_errno("sigaction SIGALRM");
	alarm((unsigned)seconds);
}
