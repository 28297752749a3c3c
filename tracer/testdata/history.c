/*
 * Loads libraries out of memfds by names that it is told, and unloads them; closes and reuses
 * descriptors; forks. One command a line on descriptor 0, one answer a line on 1; the child has
 * 3 and 4 for that. What the libraries lie in is told by fstat(2), before they are loaded.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void *handles[256];
static int loaded;

static void move(int from, int to)
{
	dup2(from, to);
	close(from);
}

int main(int argc, char **argv)
{
	move(0, 100), move(1, 101), move(3, 102), move(4, 103);
	FILE *in = fdopen(100, "r"), *out = fdopen(101, "w");
	char line[512], name[256];
	int fd, i, apart;
	while (fgets(line, sizeof line, in)) {
		if (sscanf(line, "load %d %d %255s", &fd, &apart, name) == 3) {
			char buf[65536];
			struct stat st;
			int lib = open(argv[1], O_RDONLY), mem = memfd_create("library", 0);
			for (ssize_t n; (n = read(lib, buf, sizeof buf)) > 0;)
				write(mem, buf, n);
			close(lib);
			if (mem != fd)
				move(mem, fd);
			fstat(fd, &st);
			void *h = apart ? dlmopen(LM_ID_NEWLM, name, RTLD_NOW) : dlopen(name, RTLD_NOW | RTLD_LOCAL);
			for (i = 0; i < loaded && handles[i] != h; i++)
				;
			if (!h) {
				fprintf(out, "failed %s\n", strtok(dlerror(), "\n"));
			} else if (i < loaded) {
				dlclose(h); /* it has one of that name already */
				fprintf(out, "same %d\n", i);
			} else {
				handles[loaded] = h;
				fprintf(out, "loaded %d %lu\n", loaded++, (unsigned long)st.st_ino);
			}
		} else if (sscanf(line, "unload %d", &i) == 1) {
			dlclose(handles[i]);
			handles[i] = NULL;
			fputs("unloaded\n", out);
		} else if (sscanf(line, "close %d", &fd) == 1) {
			close(fd);
			fputs("closed\n", out);
		} else if (!strcmp(line, "fork\n")) {
			fflush(out);
			int pid = fork();
			if (!pid) {
				in = fdopen(102, "r"), out = fdopen(103, "w");
				close(100), close(101);
				continue;
			}
			close(102), close(103);
			fprintf(out, "forked %d\n", pid);
		}
		fflush(out);
	}
	return 0;
}
