/*
 * Makes four file system calls over and over: open, read, pread64, close. The
 * benchmarks trace it.
 *
 *     busy [ROUNDS]
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
	long rounds = argc > 1 ? strtol(argv[1], NULL, 10) : 20000;
	char bytes[64];

	for (long i = 0; i < rounds; i++) {
		int fd = open("/proc/version", O_RDONLY);
		if (fd < 0 || read(fd, bytes, sizeof bytes) < 0 || pread(fd, bytes, 8, 1) < 0 || close(fd) != 0) {
			perror("busy");
			return 1;
		}
	}
	return 0;
}
