/*
 * The article's second program: copies the library into a memfd and loads it
 * by the name of its own descriptor, /proc/self/fd/N. A debugger that opens
 * that name opens its own descriptor N.
 *
 * Without options it is the article's program, descriptor for descriptor:
 * lib.so is 3, the memfd is 4. The options vary one thing each.
 */
#include "common.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ARGUMENT 21
#define COPIES_MAX 64
#define THREADS_MAX 1024
#define FD_MAX 4096

/* For a debugger: set var whosefd_wait = 0 */
volatile int whosefd_wait = 1;

enum after { KEEP, CLOSE, REUSE };

static struct {
	const char *lib;
	int fd;            /* -1: as memfd_create gives it */
	int copies;
	bool msync;
	const char *name;  /* with {fd}, {pid} and {tid} */
	const char *chdir; /* null: stay */
	const char *memfd; /* null: O_TMPFILE */
	enum after after;
	const char *reuse;
	bool thread;
	int threads;
	bool wait, wait_before;
	int timeout;
} set = {
	.fd = -1,
	.copies = 1,
	.name = "/proc/self/fd/{fd}",
	.memfd = "libfunction",
	.reuse = "/dev/null",
	.timeout = TIMEOUT_SECONDS,
};

static struct copy {
	int fd;
	void *library;
	char name[PATH_MAX];
} copies[COPIES_MAX];

static const struct form {
	const char *word, *name, *chdir;
} forms[] = {
	{ "self", "/proc/self/fd/{fd}", NULL },
	{ "thread-self", "/proc/thread-self/fd/{fd}", NULL },
	{ "dev-fd", "/dev/fd/{fd}", NULL },
	{ "pid", "/proc/{pid}/fd/{fd}", NULL },
	{ "relative", "./{fd}", "/proc/self/fd" },
};

static const char help[] =
    "Usage: %s [OPTION]...\n"
    "Copy a library into memory, load it by the name of its descriptor, call foo(21)\n"
    "in it and print the result.\n"
    "\n"
    "  --lib PATH         the library (lib.so beside this program)\n"
    "  --fd N             put the memfd on descriptor N (as memfd_create gives it)\n"
    "  --copies K         load K copies, on N, N+1, ... (1)\n"
    "  --msync            msync the memory before dlopen\n"
    "  --name FORM        name the library by\n"
    "                       self         /proc/self/fd/N (the default)\n"
    "                       thread-self  /proc/thread-self/fd/N\n"
    "                       dev-fd       /dev/fd/N\n"
    "                       pid          /proc/PID/fd/N\n"
    "                       relative     ./N, in the working directory /proc/self/fd\n"
    "                     or a name with a slash, in which {fd}, {pid} and {tid}\n"
    "                     stand for the numbers\n"
    "  --cure             the same as --name pid\n"
    "  --memfd-name NAME  the memfd's name (libfunction)\n"
    "  --tmpfile          an O_TMPFILE file in place of a memfd\n"
    "  --after WHAT       after dlopen: keep the descriptor (the default), close it,\n"
    "                     or reuse its number for another file\n"
    "  --reuse PATH       the file for --after reuse (/dev/null)\n"
    "  --thread           load the library in a second thread\n"
    "  --threads K        start K threads that do nothing\n"
    "  --wait             after dlopen, print \"ready PID\" and wait for a debugger to\n"
    "                     set whosefd_wait to 0\n"
    "  --wait-before      the same before dlopen\n"
    "  --timeout S        give up the wait after S seconds (600; 0: never)\n"
    "  --help             this text\n";

enum {
	OPT_LIB = 256, OPT_FD, OPT_COPIES, OPT_MSYNC, OPT_NAME, OPT_CURE,
	OPT_MEMFD_NAME, OPT_TMPFILE, OPT_AFTER, OPT_REUSE, OPT_THREAD,
	OPT_THREADS, OPT_WAIT, OPT_WAIT_BEFORE, OPT_TIMEOUT, OPT_HELP,
};

static const struct option options[] = {
	{ "lib", required_argument, NULL, OPT_LIB },
	{ "fd", required_argument, NULL, OPT_FD },
	{ "copies", required_argument, NULL, OPT_COPIES },
	{ "msync", no_argument, NULL, OPT_MSYNC },
	{ "name", required_argument, NULL, OPT_NAME },
	{ "cure", no_argument, NULL, OPT_CURE },
	{ "memfd-name", required_argument, NULL, OPT_MEMFD_NAME },
	{ "tmpfile", no_argument, NULL, OPT_TMPFILE },
	{ "after", required_argument, NULL, OPT_AFTER },
	{ "reuse", required_argument, NULL, OPT_REUSE },
	{ "thread", no_argument, NULL, OPT_THREAD },
	{ "threads", required_argument, NULL, OPT_THREADS },
	{ "wait", no_argument, NULL, OPT_WAIT },
	{ "wait-before", no_argument, NULL, OPT_WAIT_BEFORE },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

static void choose_name(const char *text)
{
	for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
		if (!strcmp(text, forms[i].word)) {
			set.name = forms[i].name;
			set.chdir = forms[i].chdir;
			return;
		}
	}
	/* Without a slash, dlopen would search the library path. */
	if (!strchr(text, '/'))
		die("--name %s: neither a form nor a path; see --help", text);
	set.name = text;
	set.chdir = NULL;
}

static enum after parse_after(const char *text)
{
	if (!strcmp(text, "keep"))
		return KEEP;
	if (!strcmp(text, "close"))
		return CLOSE;
	if (!strcmp(text, "reuse"))
		return REUSE;
	die("--after %s: not one of keep, close, reuse", text);
}

static void parse_options(int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case OPT_LIB: set.lib = optarg; break;
		case OPT_FD: set.fd = parse_number("--fd", optarg, 0, FD_MAX); break;
		case OPT_COPIES: set.copies = parse_number("--copies", optarg, 1, COPIES_MAX); break;
		case OPT_MSYNC: set.msync = true; break;
		case OPT_NAME: choose_name(optarg); break;
		case OPT_CURE: choose_name("pid"); break;
		case OPT_MEMFD_NAME: set.memfd = optarg; break;
		case OPT_TMPFILE: set.memfd = NULL; break;
		case OPT_AFTER: set.after = parse_after(optarg); break;
		case OPT_REUSE: set.reuse = optarg; break;
		case OPT_THREAD: set.thread = true; break;
		case OPT_THREADS: set.threads = parse_number("--threads", optarg, 0, THREADS_MAX); break;
		case OPT_WAIT: set.wait = true; break;
		case OPT_WAIT_BEFORE: set.wait_before = true; break;
		case OPT_TIMEOUT: set.timeout = parse_number("--timeout", optarg, 0, 1 << 30); break;
		case OPT_HELP:
			printf(help, program_invocation_short_name);
			flush_output();
			exit(EXIT_SUCCESS);
		default: exit(EXIT_FAILURE); /* getopt_long has said why */
		}
	}
	if (optind < argc)
		die("%s: takes no such argument; see --help", argv[optind]);
}

/* Writes set.name to name, with the placeholders replaced. */
static void expand_name(char *name, size_t size, int fd)
{
	const struct { const char *word; int number; } numbers[] = {
		{ "{fd}", fd },
		{ "{pid}", (int)getpid() },
		{ "{tid}", (int)gettid() },
	};
	const char *from = set.name;
	size_t used = 0;

	while (*from) {
		int written = -1;

		for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
			size_t length = strlen(numbers[i].word);

			if (strncmp(from, numbers[i].word, length))
				continue;
			written = snprintf(name + used, size - used, "%d", numbers[i].number);
			from += length;
			break;
		}
		if (written < 0)
			written = snprintf(name + used, size - used, "%c", *from++);
		used += (size_t)written;
		if (used >= size)
			die("--name: longer than %zu bytes", size - 1);
	}
	name[used] = '\0';
}

static void *idle(void *unused)
{
	(void)unused;
	for (;;)
		pause();
	return NULL;
}

static void start_thread(pthread_t *thread, void *(*run)(void *))
{
	int error = pthread_create(thread, NULL, run, NULL);

	if (error) {
		errno = error;
		die_errno("pthread_create");
	}
}

/* Puts the library that file holds into memory and returns the descriptor of
 * that. */
static int receive_code(FILE *file, const char *path, size_t size, int number)
{
	int fd = make_file(set.memfd, size);
	void *memory;

	if (number >= 0)
		fd = move_fd(fd, number);
	memory = map_file(fd, size);
	rewind(file);
	if (fread(memory, 1, size, file) != size)
		die("read %s: %s", path, ferror(file) ? strerror(errno) : "it became shorter");
	if (set.msync && msync(memory, size, MS_SYNC))
		die_errno("msync");
	return fd;
}

static void *load(void *unused)
{
	(void)unused;
	for (int i = 0; i < set.copies; i++) {
		struct copy *copy = &copies[i];

		expand_name(copy->name, sizeof copy->name, copy->fd);
		copy->library = dlopen(copy->name, RTLD_NOW);
		if (!copy->library)
			die("dlopen %s: %s", copy->name, dlerror());
	}
	return NULL;
}

static void let_go_of(int fd)
{
	int other;

	switch (set.after) {
	case KEEP:
		break;
	case CLOSE:
		if (close(fd))
			die_errno("close %d", fd);
		break;
	case REUSE:
		other = open(set.reuse, O_RDONLY | O_NONBLOCK);
		if (other < 0)
			die_errno("open %s", set.reuse);
		move_fd(other, fd);
		break;
	}
}

int main(int argc, char **argv)
{
	const char *path, *error;
	size_t size;
	int lib;
	FILE *file;
	pthread_t thread;

	parse_options(argc, argv);
	path = set.lib ? set.lib : beside_program("lib.so");
	if (set.fd >= 0)
		keep_output_clear_of(set.fd, set.fd + set.copies - 1);
	lib = open_library(path, &size);
	if (set.fd >= 0)
		lib = keep_clear_of(lib, set.fd, set.fd + set.copies - 1);
	/* Never closed: in the article it holds 3 while the memfd is 4. */
	file = fdopen(lib, "rb");
	if (!file)
		die_errno("fdopen %s", path);

	for (int i = 0; i < set.threads; i++)
		start_thread(&thread, idle);
	for (int i = 0; i < set.copies; i++)
		copies[i].fd = receive_code(file, path, size, set.fd < 0 ? -1 : set.fd + i);
	if (set.chdir && chdir(set.chdir))
		die_errno("chdir %s", set.chdir);
	if (set.wait_before)
		wait_while(&whosefd_wait, set.timeout);
	if (set.thread) {
		start_thread(&thread, load);
		errno = pthread_join(thread, NULL);
		if (errno)
			die_errno("pthread_join");
	} else {
		load(NULL);
	}
	for (int i = 0; i < set.copies; i++)
		let_go_of(copies[i].fd);
	if (set.wait)
		wait_while(&whosefd_wait, set.timeout);

	for (int i = 0; i < set.copies; i++) {
		function_t function = find_function(copies[i].library, "foo", &error);

		if (!function)
			die("dlsym foo in %s: %s", copies[i].name, error);
		printf("foo(%d) = %d\n", ARGUMENT, function(ARGUMENT));
	}
	flush_output();
	return EXIT_SUCCESS;
}
