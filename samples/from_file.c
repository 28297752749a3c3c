/*
 * The article's first program: loads the library from its file and calls foo.
 * Every debugger handles it. With --relative it is another case of the same
 * bug: a name that means something else in another working directory.
 */
#include "common.h"

#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARGUMENT 21

/* For a debugger: set var whosefd_wait = 0 */
volatile int whosefd_wait = 1;

static const char help[] =
    "Usage: %s [OPTION]...\n"
    "Load a library from its file, call foo(21) in it and print the result.\n"
    "\n"
    "  --lib PATH       the library (lib.so beside this program)\n"
    "  --relative       change to the library's folder, load it as ./NAME\n"
    "  --wait           after dlopen, print \"ready PID\" and wait for a debugger\n"
    "                   to set whosefd_wait to 0\n"
    "  --wait-before    the same before dlopen\n"
    "  --timeout S      give up the wait after S seconds (600; 0: never)\n"
    "  --help           this text\n";

enum { OPT_LIB = 256, OPT_RELATIVE, OPT_WAIT, OPT_WAIT_BEFORE, OPT_TIMEOUT, OPT_HELP };

static const struct option options[] = {
	{ "lib", required_argument, NULL, OPT_LIB },
	{ "relative", no_argument, NULL, OPT_RELATIVE },
	{ "wait", no_argument, NULL, OPT_WAIT },
	{ "wait-before", no_argument, NULL, OPT_WAIT_BEFORE },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

/* Changes to the folder of path and returns its name from there. */
static char *enter_folder_of(const char *path)
{
	char *folder = strdup(path), *copy = strdup(path), *name;

	if (!folder || !copy || asprintf(&name, "./%s", basename(copy)) < 0)
		die("out of memory");
	if (chdir(dirname(folder)))
		die_errno("chdir to the folder of %s", path);
	free(folder);
	free(copy);
	return name;
}

int main(int argc, char **argv)
{
	char *path = NULL;
	bool relative = false, wait = false, wait_before = false;
	int timeout = TIMEOUT_SECONDS, option;
	const char *error;
	void *library;
	function_t function;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case OPT_LIB: path = optarg; break;
		case OPT_RELATIVE: relative = true; break;
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

	if (!path)
		path = beside_program("lib.so");
	if (relative)
		path = enter_folder_of(path);
	if (wait_before)
		wait_while(&whosefd_wait, timeout);
	library = dlopen(path, RTLD_NOW);
	if (!library)
		die("dlopen %s: %s", path, dlerror());
	if (wait)
		wait_while(&whosefd_wait, timeout);
	function = find_function(library, "foo", &error);
	if (!function)
		die("dlsym foo in %s: %s", path, error);
	printf("foo(%d) = %d\n", ARGUMENT, function(ARGUMENT));
	flush_output();
	return EXIT_SUCCESS;
}
