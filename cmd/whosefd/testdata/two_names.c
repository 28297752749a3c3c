/* Loads the library ONE by /proc/self/fd/N, gives N to the library TWO, and loads that by another
 * spelling of the same name: two_names ONE TWO N FORM, where FORM has %d for N. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void put(const char *path, int at)
{
	char buf[65536];
	int from = open(path, O_RDONLY | O_CLOEXEC), to = memfd_create("library", 0);
	ssize_t n;

	while ((n = read(from, buf, sizeof buf)) > 0)
		if (write(to, buf, n) != n)
			abort();
	close(from);
	if (to == at)
		return;
	if (dup2(to, at) != at)
		abort();
	close(to);
}

static int load(const char *form, int at, const char *function)
{
	char name[256];
	snprintf(name, sizeof name, form, at);
	void *library = dlopen(name, RTLD_NOW);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		exit(2);
	}
	return ((int (*)(int))dlsym(library, function))(21);
}

int main(int argc, char **argv)
{
	int at = argc == 5 ? atoi(argv[3]) : 0;
	put(argv[1], at);
	printf("one %d\n", load("/proc/self/fd/%d", at, "one"));
	put(argv[2], at);
	printf("two %d\n", load(argv[4], at, "two"));
	return 0;
}
