#include "common.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where output goes that had to leave 1 and 2: out of the way of the numbers
 * that a debugger uses itself. */
#define OUTPUT_FD 200

#define WAIT_STEP_US 10000

_Noreturn static void vdie(int error, const char *format, va_list args)
{
	fflush(stdout);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	vfprintf(stderr, format, args);
	if (error)
		fprintf(stderr, ": %s", strerror(error));
	fputc('\n', stderr);
	exit(EXIT_FAILURE);
}

void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vdie(0, format, args);
}

void die_errno(const char *format, ...)
{
	int error = errno;
	va_list args;

	va_start(args, format);
	vdie(error, format, args);
}

void flush_output(void)
{
	if (fflush(stdout) || ferror(stdout))
		die_errno("write to stdout");
}

int parse_number(const char *option, const char *text, int min, int max)
{
	char *end;
	long number;

	errno = 0;
	number = strtol(text, &end, 10);
	if (errno || end == text || *end || number < min || number > max)
		die("%s %s: not a number from %d to %d", option, text, min, max);
	return (int)number;
}

char *beside_program(const char *file)
{
	char program[PATH_MAX];
	char *path;
	ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);

	if (length < 0)
		die_errno("readlink /proc/self/exe");
	program[length] = '\0';
	if (asprintf(&path, "%s/%s", dirname(program), file) < 0)
		die("out of memory");
	return path;
}

int open_library(const char *path, size_t *size)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die_errno("open %s", path);
	if (fstat(fd, &status))
		die_errno("stat %s", path);
	if (!S_ISREG(status.st_mode))
		die("%s: not a regular file", path);
	if (status.st_size < 1 || (uintmax_t)status.st_size > LIBRARY_MAX)
		die("%s: has %jd bytes, not 1 to %zu", path,
		    (intmax_t)status.st_size, LIBRARY_MAX);
	*size = (size_t)status.st_size;
	return fd;
}

int move_fd(int fd, int number)
{
	if (fd == number)
		return fd;
	if (dup2(fd, number) < 0)
		die_errno("dup2 %d to %d", fd, number);
	if (close(fd))
		die_errno("close %d", fd);
	return number;
}

int keep_clear_of(int fd, int first, int last)
{
	int moved;

	if (fd < first || fd > last)
		return fd;
	moved = fcntl(fd, F_DUPFD_CLOEXEC, last + 1);
	if (moved < 0)
		die_errno("move descriptor %d above %d", fd, last);
	if (close(fd))
		die_errno("close %d", fd);
	return moved;
}

static FILE *reopened(int fd)
{
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, OUTPUT_FD);
	FILE *file = moved < 0 ? NULL : fdopen(moved, "w");

	if (!file)
		die_errno("move descriptor %d above %d", fd, OUTPUT_FD);
	return file;
}

void keep_output_clear_of(int first, int last)
{
	if (first <= STDOUT_FILENO && STDOUT_FILENO <= last) {
		stdout = reopened(STDOUT_FILENO);
		setvbuf(stdout, NULL, _IOLBF, 0);
	}
	if (first <= STDERR_FILENO && STDERR_FILENO <= last) {
		stderr = reopened(STDERR_FILENO);
		setvbuf(stderr, NULL, _IONBF, 0);
	}
}

int make_file(const char *name, size_t size)
{
	const char *folder;
	int fd;

	if (name) {
		fd = memfd_create(name, 0);
		if (fd < 0)
			die_errno("memfd_create %s", name);
	} else {
		folder = getenv("TMPDIR");
		if (!folder || !*folder)
			folder = "/tmp";
		fd = open(folder, O_TMPFILE | O_RDWR, S_IRWXU);
		if (fd < 0)
			die_errno("open a file without a name in %s", folder);
	}
	if (ftruncate(fd, (off_t)size))
		die_errno("make the library's file %zu bytes long", size);
	return fd;
}

void *map_file(int fd, size_t size)
{
	void *memory = mmap(NULL, size, PROT_WRITE, MAP_SHARED, fd, 0);

	if (memory == MAP_FAILED)
		die_errno("mmap the library's file");
	return memory;
}

function_t find_function(void *library, const char *name, const char **error)
{
	function_t function;

	dlerror();
	/* The cast is as dlopen(3) has it: ISO C knows no conversion from a
	 * pointer to an object to one to a function. */
	*(void **)&function = dlsym(library, name);
	*error = dlerror();
	if (!*error && !function)
		*error = "the symbol is null";
	return *error ? NULL : function;
}

void wait_while(volatile int *flag, int timeout)
{
	int64_t left = (int64_t)timeout * 1000000;

	/* EINVAL where the kernel has no Yama: then nothing is in the way. */
	if (prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0) && errno != EINVAL)
		die_errno("prctl PR_SET_PTRACER");
	printf("ready %d\n", (int)getpid());
	flush_output();
	while (*flag) {
		if (timeout && (left -= WAIT_STEP_US) < 0)
			die("nobody ended the wait within %d s", timeout);
		/* May end early, with EINTR: it is only a step. */
		usleep(WAIT_STEP_US);
	}
	*flag = 1;
}
