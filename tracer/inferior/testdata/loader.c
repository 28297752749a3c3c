// Loads a library in one of many ways, prints the loader's own list of loaded
// objects, one "namespace l_addr l_ld name" a line, then "ready", and waits for
// the end of its input.
// usage: loader MODE LIBRARY FD
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char name[4200];

static void die(const char *what)
{
	printf("failed %s\n", what);
	exit(1);
}

static void *load(void *unused)
{
	(void)unused;
	if (!dlopen(name, RTLD_NOW))
		die(dlerror());
	return NULL;
}

// copy puts the library into fd.
static void copy(const char *from, int fd)
{
	char buf[65536];
	ssize_t n;
	int in = open(from, O_RDONLY);

	if (in < 0)
		die("open");
	while ((n = read(in, buf, sizeof buf)) > 0)
		if (write(fd, buf, n) != n)
			die("write");
	close(in);
}

static void print(int ns, struct link_map *l)
{
	while (l->l_prev)
		l = l->l_prev;
	for (; l; l = l->l_next)
		printf("%d %lx %lx %s\n", ns, (long)l->l_addr, (long)l->l_ld, l->l_name);
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "none";
	const char *lib = argc > 2 ? argv[2] : "";
	int n = argc > 3 ? atoi(argv[3]) : 0;

	snprintf(name, sizeof name, "/proc/self/fd/%d", n);
	if (strcmp(mode, "none") == 0) {
		puts("ready");
		fflush(stdout);
		return getchar() == EOF ? 0 : 1;
	}
	if (strcmp(mode, "path") == 0 || strcmp(mode, "dlmopen") == 0) {
		snprintf(name, sizeof name, "%s", lib);
	} else if (strcmp(mode, "deleted") == 0) {
		snprintf(name, sizeof name, "%s", lib);
	} else if (strcmp(mode, "relative") == 0) {
		char *slash = strrchr(strcpy(name, lib), '/');

		*slash = 0;
		if (chdir(name))
			die("chdir");
		snprintf(name, sizeof name, "./%s", strrchr(lib, '/') + 1);
	} else {
		char dir[4200];
		int fd;

		snprintf(dir, sizeof dir, "%s", lib);
		*strrchr(dir, '/') = 0;
		fd = strcmp(mode, "tmpfile") == 0 ? open(dir, O_TMPFILE | O_RDWR, 0700) : memfd_create("libfunction", 0);
		if (fd < 0)
			die("file");
		copy(lib, fd);
		if (dup2(fd, n) != n)
			die("dup2");
		if (fd != n)
			close(fd);
	}
	if (strcmp(mode, "dlmopen") == 0) {
		void *h = dlmopen(LM_ID_NEWLM, name, RTLD_NOW);
		struct link_map *l;

		if (!h || dlinfo(h, RTLD_DI_LINKMAP, &l))
			die(dlerror());
		print(0, _r_debug.r_map);
		print(1, l);
	} else {
		if (strcmp(mode, "thread") == 0) {
			pthread_t t;

			if (pthread_create(&t, NULL, load, NULL) || pthread_join(t, NULL))
				die("thread");
		} else {
			load(NULL);
		}
		print(0, _r_debug.r_map);
	}
	if (strcmp(mode, "closed") == 0)
		close(n);
	if (strcmp(mode, "reused") == 0 && dup2(0, n) != n)
		die("dup2");
	if (strcmp(mode, "moved") == 0 && (dup2(n, n + 20) < 0 || close(n)))
		die("dup2");
	if (strcmp(mode, "deleted") == 0 && unlink(lib))
		die("unlink");
	puts("ready");
	fflush(stdout);
	return getchar() == EOF ? 0 : 1;
}
