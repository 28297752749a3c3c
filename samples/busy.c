/*
 * Makes four file system calls over and over: open, read, pread64, close. The
 * benchmarks trace it.
 *
 *     busy [ROUNDS [attach]]
 *
 * With "attach" it first waits until something traces it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Waits until TracerPid in /proc/self/status is not 0. */
static void await_tracer(void) {
	char status[4096], *field;

	for (;;) {
		int fd = open("/proc/self/status", O_RDONLY);
		ssize_t n = fd < 0 ? -1 : read(fd, status, sizeof status - 1);
		if (n < 0) {
			perror("/proc/self/status");
			exit(1);
		}
		close(fd);
		status[n] = 0;
		field = strstr(status, "TracerPid:\t");
		if (field != NULL && strtol(field + strlen("TracerPid:\t"), NULL, 10) != 0)
			return;
		usleep(1000);
	}
}

int main(int argc, char **argv) {
	long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 20000;
	char bytes[64];

	if (argc > 2 && strcmp(argv[2], "attach") == 0)
		await_tracer();
	for (long i = 0; i < rounds; i++) {
		int fd = open("/proc/version", O_RDONLY);
		if (fd < 0 || read(fd, bytes, sizeof bytes) < 0 || pread(fd, bytes, 8, 1) < 0 || close(fd) != 0) {
			perror("busy");
			return 1;
		}
	}
	return 0;
}
