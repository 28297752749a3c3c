/*
 * Two threads at different paces, until killed: one makes system calls and
 * nothing else, the other computes for some milliseconds between two of them.
 * Prints the id of each, the busy one's first.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

static sem_t told;

static void *busy(void *unused) {
	(void)unused;
	printf("busy %ld\n", (long)syscall(SYS_gettid));
	sem_post(&told);
	for (;;)
		syscall(SYS_getppid);
	return NULL;
}

static void *computing(void *unused) {
	volatile unsigned long sum = 0;

	(void)unused;
	sem_wait(&told);
	printf("computing %ld\n", (long)syscall(SYS_gettid));
	for (;;) {
		for (unsigned long i = 0; i < 5000000; i++)
			sum += i;
		(void)sum; /* never read: only to compute */
		syscall(SYS_getppid);
	}
	return NULL;
}

int main(void) {
	pthread_t first, second;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (sem_init(&told, 0, 0) != 0 || pthread_create(&first, NULL, busy, NULL) != 0 ||
	    pthread_create(&second, NULL, computing, NULL) != 0) {
		perror("paces");
		return 1;
	}
	pthread_join(first, NULL);
	return 0;
}
