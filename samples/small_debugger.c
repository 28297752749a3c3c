/*
 * The part of a debugger that the article is about, and nothing else: traces a
 * process, reads the names of its libraries out of its memory, by a way of one's
 * choice, and opens each as it stands, in its own process. It says what it got and
 * then stays, with its files open.
 */
#include "common.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static const char help[] =
    "Usage: %s [OPTION]... PID\n"
    "Trace a process, open each of its libraries by its name, and read its first bytes.\n"
    "\n"
    "  --by WAY     read the process's memory by pread (of /proc/PID/mem, the default),\n"
    "               seek (lseek and read of it), preadv, vm (process_vm_readv), peek\n"
    "               (PTRACE_PEEKDATA) or text (PTRACE_PEEKTEXT)\n"
    "  --piece N    N bytes at a time (8; of a name, up to its page's end)\n"
    "  --wait       print \"ready PID\" and wait for SIGUSR1 before it reads anything\n"
    "  --help       this text\n";

enum { OPT_BY = 256, OPT_PIECE, OPT_WAIT, OPT_HELP };

static const struct option options[] = {
	{ "by", required_argument, NULL, OPT_BY },
	{ "piece", required_argument, NULL, OPT_PIECE },
	{ "wait", no_argument, NULL, OPT_WAIT },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

#define PAGE ((size_t)4096)
#define OBJECTS_MAX 1000

static pid_t target;
static int mem;

static ssize_t by_pread(uintptr_t at, void *to, size_t size)
{
	return pread(mem, to, size, (off_t)at);
}

static ssize_t by_seek(uintptr_t at, void *to, size_t size)
{
	if (lseek(mem, (off_t)at, SEEK_SET) < 0)
		return -1;
	return read(mem, to, size);
}

static ssize_t by_preadv(uintptr_t at, void *to, size_t size)
{
	struct iovec local[] = { { to, size / 2 }, { (char *)to + size / 2, size - size / 2 } };

	return preadv(mem, local, 2, (off_t)at);
}

static ssize_t by_vm(uintptr_t at, void *to, size_t size)
{
	struct iovec local[] = { { to, size / 2 }, { (char *)to + size / 2, size - size / 2 } };
	struct iovec remote = { (void *)at, size };

	return process_vm_readv(target, local, 2, &remote, 1, 0);
}

static ssize_t peek(enum __ptrace_request request, uintptr_t at, void *to, size_t size)
{
	long word;

	errno = 0;
	word = ptrace(request, target, (void *)at, NULL);
	if (errno)
		return -1;
	size = size < sizeof word ? size : sizeof word;
	memcpy(to, &word, size);
	return (ssize_t)size;
}

static ssize_t by_peek(uintptr_t at, void *to, size_t size)
{
	return peek(PTRACE_PEEKDATA, at, to, size);
}

static ssize_t by_text(uintptr_t at, void *to, size_t size)
{
	return peek(PTRACE_PEEKTEXT, at, to, size);
}

static const struct way {
	const char *word;
	ssize_t (*read)(uintptr_t at, void *to, size_t size);
} ways[] = {
	{ "pread", by_pread },
	{ "seek", by_seek },
	{ "preadv", by_preadv },
	{ "vm", by_vm },
	{ "peek", by_peek },
	{ "text", by_text },
};

static const struct way *way = ways;
static size_t piece = 8;

static void fetch(uintptr_t at, void *to, size_t size)
{
	while (size) {
		ssize_t got = way->read(at, to, size < piece ? size : piece);

		if (got <= 0)
			die_errno("read %zu bytes at %#lx of process %d", size, (unsigned long)at, (int)target);
		at += (size_t)got;
		to = (char *)to + got;
		size -= (size_t)got;
	}
}

static void fetch_name(uintptr_t at, char *name, size_t size)
{
	size_t have = 0;

	while (have < size) {
		size_t step = PAGE - at % PAGE;

		step = step < piece ? step : piece;
		step = step < size - have ? step : size - have;
		fetch(at, name + have, step);
		if (memchr(name + have, '\0', step))
			return;
		have += step;
		at += step;
	}
	die("a name is longer than %zu bytes", size - 1);
}

/* The auxiliary vector's entry of this type, 0 without one (getauxval(3)). */
static uintptr_t auxiliary(unsigned long type)
{
	char path[64];
	ElfW(auxv_t) entry;
	FILE *file;
	uintptr_t value = 0;

	snprintf(path, sizeof path, "/proc/%d/auxv", (int)target);
	file = fopen(path, "rb");
	if (!file)
		die_errno("open %s", path);
	while (!value && fread(&entry, sizeof entry, 1, file) == 1)
		if (entry.a_type == type)
			value = entry.a_un.a_val;
	fclose(file);
	return value;
}

/* The head of the list of loaded objects: by the program headers to the dynamic
 * section, by that to r_debug (link.h). */
static uintptr_t list_of_objects(void)
{
	uintptr_t headers = auxiliary(AT_PHDR), count = auxiliary(AT_PHNUM), base = 0, dynamic = 0;
	ElfW(Phdr) header;
	ElfW(Dyn) entry;
	struct r_debug debug;

	for (uintptr_t i = 0; i < count; i++) {
		fetch(headers + i * sizeof header, &header, sizeof header);
		if (header.p_type == PT_PHDR)
			base = headers - header.p_vaddr;
		if (header.p_type == PT_DYNAMIC)
			dynamic = header.p_vaddr;
	}
	if (!dynamic)
		die("process %d: its program has no dynamic section", (int)target);
	for (dynamic += base; ; dynamic += sizeof entry) {
		fetch(dynamic, &entry, sizeof entry);
		if (entry.d_tag == DT_NULL)
			die("process %d: no list of objects", (int)target);
		if (entry.d_tag == DT_DEBUG)
			break;
	}
	fetch(entry.d_un.d_ptr, &debug, sizeof debug);
	return (uintptr_t)debug.r_map;
}

/* Opens what the name leads to here, and tells what that is. */
static void open_object(const char *name)
{
	unsigned char head[EI_NIDENT];
	ssize_t got;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		printf("%s: %s\n", name, strerror(errno));
		return;
	}
	got = read(fd, head, sizeof head);
	if (got < 0)
		printf("%s: %s\n", name, strerror(errno));
	else if ((size_t)got < sizeof head || memcmp(head, ELFMAG, SELFMAG))
		printf("%s: not in executable format\n", name);
	else
		printf("%s: read\n", name);
}

int main(int argc, char **argv)
{
	char path[64], name[PATH_MAX];
	bool wait = false;
	int option, status;
	sigset_t go;
	uintptr_t object;
	struct link_map entry;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case OPT_BY:
			way = NULL;
			for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
				if (!strcmp(optarg, ways[i].word))
					way = &ways[i];
			if (!way)
				die("--by %s: no such way; see --help", optarg);
			break;
		case OPT_PIECE: piece = (size_t)parse_number("--piece", optarg, 1, (int)PAGE); break;
		case OPT_WAIT: wait = true; break;
		case OPT_HELP:
			printf(help, program_invocation_short_name);
			flush_output();
			return EXIT_SUCCESS;
		default: return EXIT_FAILURE;
		}
	}
	if (optind != argc - 1)
		die("give one process; see --help");
	target = parse_number("PID", argv[optind], 1, INT_MAX);

	if (ptrace(PTRACE_ATTACH, target, NULL, NULL) || waitpid(target, &status, __WALL) != target)
		die_errno("attach to process %d", (int)target);
	snprintf(path, sizeof path, "/proc/%d/mem", (int)target);
	mem = open(path, O_RDONLY | O_CLOEXEC);
	if (mem < 0)
		die_errno("open %s", path);
	if (wait) {
		sigemptyset(&go);
		sigaddset(&go, SIGUSR1);
		sigprocmask(SIG_BLOCK, &go, NULL);
		printf("ready %d\n", (int)getpid());
		flush_output();
		sigwait(&go, &status);
	}
	object = list_of_objects();
	for (int i = 0; object && i < OBJECTS_MAX; i++) {
		fetch(object, &entry, sizeof entry);
		fetch_name((uintptr_t)entry.l_name, name, sizeof name);
		/* The program itself has no name, the vdso no file. */
		if (*name && strncmp(name, "linux-vdso", 10))
			open_object(name);
		object = (uintptr_t)entry.l_next;
	}
	puts("done");
	flush_output();
	for (;;)
		pause();
}
