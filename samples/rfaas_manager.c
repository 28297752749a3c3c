/*
 * Listens for clients and starts an executor for each, which talks to the
 * client by itself. Keeps account of the executors: it reaps each, and leaves
 * none behind when it ends.
 */
#include "rfaas_protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXECUTORS_MAX 64

/* Where an executor finds its connection; its memfd is then 4, as in the
 * article. */
#define CONNECTION_FD 3

static const char help[] =
    "Usage: %s --socket PATH [OPTION]...\n"
    "Start an rfaas_executor (found beside this program) for each client.\n"
    "\n"
    "  --socket PATH    where to listen\n"
    "  --clients N      end after N clients (0: never)\n"
    "  --timeout S      end after S seconds, and with it all executors (600; 0: never)\n"
    "  --fd N, --cure, --wait, --wait-before\n"
    "                   for the executors; see rfaas_executor --help\n"
    "  --help           this text\n"
    "\n"
    "Prints \"ready PID\" when it listens. SIGINT, SIGTERM and SIGHUP end it.\n";

enum {
	OPT_SOCKET = 256, OPT_CLIENTS, OPT_TIMEOUT, OPT_FD, OPT_CURE, OPT_WAIT,
	OPT_WAIT_BEFORE, OPT_HELP,
};

static const struct option options[] = {
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "clients", required_argument, NULL, OPT_CLIENTS },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "fd", required_argument, NULL, OPT_FD },
	{ "cure", no_argument, NULL, OPT_CURE },
	{ "wait", no_argument, NULL, OPT_WAIT },
	{ "wait-before", no_argument, NULL, OPT_WAIT_BEFORE },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

static const char *socket_path;

static pid_t executors[EXECUTORS_MAX];
static int running;

static void remove_socket(void)
{
	unlink(socket_path);
}

/* A manager that was killed leaves its socket behind, to which nobody
 * listens. */
static bool is_stale(const struct sockaddr_un *address)
{
	int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool refused;

	if (probe < 0)
		die_errno("socket");
	refused = connect(probe, (const struct sockaddr *)address, sizeof *address) &&
	          errno == ECONNREFUSED;
	close(probe);
	return refused;
}

static int start_listening(void)
{
	struct sockaddr_un address = rfaas_address(socket_path);
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int failed;

	if (listener < 0)
		die_errno("socket");
	failed = bind(listener, (struct sockaddr *)&address, sizeof address);
	if (failed && errno == EADDRINUSE && is_stale(&address)) {
		remove_socket();
		failed = bind(listener, (struct sockaddr *)&address, sizeof address);
	}
	if (failed)
		die_errno("bind to %s", socket_path);
	atexit(remove_socket);
	if (listen(listener, EXECUTORS_MAX))
		die_errno("listen on %s", socket_path);
	return listener;
}

static void start_executor(int connection, char *const *arguments, const sigset_t *mask)
{
	pid_t manager = getpid();
	pid_t pid = fork();

	if (pid < 0) {
		/* This client sees its connection closed; the others go on. */
		fprintf(stderr, "%s: fork: %s\n", program_invocation_short_name, strerror(errno));
		return;
	}
	if (pid) {
		fprintf(stderr, "%s: executor %d started\n", program_invocation_short_name, (int)pid);
		executors[running++] = pid;
		return;
	}
	/* Here _exit, not die: what atexit removes is the parent's. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != manager)
		_exit(EXIT_FAILURE);
	if ((connection == CONNECTION_FD ? fcntl(connection, F_SETFD, 0)
	                                 : dup2(connection, CONNECTION_FD)) < 0 ||
	    sigprocmask(SIG_SETMASK, mask, NULL) || execv(arguments[0], arguments)) {
		fprintf(stderr, "%s: exec %s: %s\n", program_invocation_short_name, arguments[0],
		        strerror(errno));
	}
	_exit(EXIT_FAILURE);
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (WIFEXITED(status))
			fprintf(stderr, "%s: executor %d ended with status %d\n",
			        program_invocation_short_name, (int)pid, WEXITSTATUS(status));
		else
			fprintf(stderr, "%s: executor %d was killed by signal %d\n",
			        program_invocation_short_name, (int)pid, WTERMSIG(status));
		for (int i = 0; i < running; i++) {
			if (executors[i] == pid) {
				executors[i] = executors[--running];
				break;
			}
		}
	}
}

static void end_executors(void)
{
	while (running) {
		pid_t pid = executors[--running];

		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
}

/* Returns the signal that ends the manager, or 0. */
static int take_signals(int signals)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof info) == sizeof info) {
		if (info.ssi_signo != SIGCHLD)
			return (int)info.ssi_signo;
		reap();
	}
	if (errno != EAGAIN && errno != EINTR)
		die_errno("read signals");
	return 0;
}

int main(int argc, char **argv)
{
	char *arguments[16], connection_number[16];
	int count = 0, clients = 0, accepted = 0, timeout = TIMEOUT_SECONDS, option;
	int listener, signals, signal = 0;
	sigset_t handled, before;

	arguments[count++] = beside_program("rfaas_executor");
	arguments[count++] = "--connection";
	snprintf(connection_number, sizeof connection_number, "%d", CONNECTION_FD);
	arguments[count++] = connection_number;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (count > (int)(sizeof arguments / sizeof *arguments) - 4)
			die("too many options for the executors");
		switch (option) {
		case OPT_SOCKET: socket_path = optarg; break;
		case OPT_CLIENTS: clients = parse_number("--clients", optarg, 0, INT_MAX); break;
		case OPT_TIMEOUT: timeout = parse_number("--timeout", optarg, 0, 1 << 30); break;
		case OPT_FD:
			parse_number("--fd", optarg, 0, 4096);
			arguments[count++] = "--fd";
			arguments[count++] = optarg;
			break;
		case OPT_CURE: arguments[count++] = "--cure"; break;
		case OPT_WAIT: arguments[count++] = "--wait"; break;
		case OPT_WAIT_BEFORE: arguments[count++] = "--wait-before"; break;
		case OPT_HELP:
			printf(help, program_invocation_short_name);
			flush_output();
			return EXIT_SUCCESS;
		default: return EXIT_FAILURE; /* getopt_long has said why */
		}
	}
	if (optind < argc)
		die("%s: takes no such argument; see --help", argv[optind]);
	if (!socket_path)
		die("--socket is missing; see --help");
	/* The manager's own timeout ends them: theirs would come at the same
	 * moment or, for late ones, later. */
	arguments[count++] = "--timeout=0";
	arguments[count] = NULL;

	sigemptyset(&handled);
	sigaddset(&handled, SIGCHLD);
	sigaddset(&handled, SIGALRM);
	sigaddset(&handled, SIGHUP);
	sigaddset(&handled, SIGINT);
	sigaddset(&handled, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &handled, &before))
		die_errno("sigprocmask");
	signals = signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		die_errno("signalfd");
	listener = start_listening();
	alarm((unsigned)timeout);
	printf("ready %d\n", (int)getpid());
	flush_output();

	while (!signal && (!clients || accepted < clients || running)) {
		bool open = running < EXECUTORS_MAX && (!clients || accepted < clients);
		struct pollfd ready[] = {
			{ .fd = signals, .events = POLLIN },
			{ .fd = open ? listener : -1, .events = POLLIN },
		};
		int connection;

		if (poll(ready, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			die_errno("poll");
		}
		if (ready[0].revents)
			signal = take_signals(signals);
		if (signal || !ready[1].revents)
			continue;
		connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (connection < 0) {
			/* The client changed its mind, or poll was mistaken. */
			if (errno == ECONNABORTED || errno == EAGAIN || errno == EINTR)
				continue;
			fprintf(stderr, "%s: accept: %s\n", program_invocation_short_name, strerror(errno));
			signal = SIGABRT;
			continue;
		}
		accepted++;
		start_executor(connection, arguments, &before);
		close(connection);
	}
	end_executors();
	if (signal == SIGALRM)
		die("time is up (see --timeout)");
	return signal == SIGABRT ? EXIT_FAILURE : EXIT_SUCCESS;
}
