/*
 * The least that a ptrace loop can do: follow a program's threads through their
 * system calls, ask the kernel about each stop, and nothing else, all on one
 * CPU. The benchmarks compare with it.
 *
 *     bareloop PROGRAM ARGS...
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) {
	perror(what);
	exit(2);
}

int main(int argc, char **argv) {
	struct __ptrace_syscall_info info;
	cpu_set_t one;
	int status, ready[2];
	char byte;
	pid_t child, tid;

	if (argc < 2) {
		fprintf(stderr, "usage: bareloop PROGRAM ARGS...\n");
		return 2;
	}
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	if (sched_setaffinity(0, sizeof one, &one) != 0 || pipe(ready) != 0)
		die("bareloop");
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		close(ready[1]);
		if (read(ready[0], &byte, 1) < 0)
			die("read");
		close(ready[0]);
		execvp(argv[1], argv + 1);
		die(argv[1]);
	}
	if (ptrace(PTRACE_SEIZE, child, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC) != 0 ||
	    ptrace(PTRACE_INTERRUPT, child, 0, 0) != 0)
		die("ptrace");
	close(ready[0]);
	close(ready[1]);
	while ((tid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		long sig = 0;
		if (tid <= 0)
			continue;
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			if (tid == child)
				return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
			continue;
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info);
		else if (status >> 16 == 0)
			sig = WSTOPSIG(status);
		ptrace(PTRACE_SYSCALL, tid, 0, sig);
	}
	return 2;
}
