/*
 * What the sample programs share: errors, options, the library's file, and the
 * loop in which a program waits for a debugger.
 */
#ifndef WHOSEFD_SAMPLES_COMMON_H
#define WHOSEFD_SAMPLES_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The largest library that anyone here takes or sends, in bytes. */
#define LIBRARY_MAX ((size_t)64 << 20)

/* How long a program waits, by default, for something that may never come. */
#define TIMEOUT_SECONDS 600

typedef int (*function_t)(int);

/* Prints "PROGRAM: MESSAGE" to stderr and exits with status 1. */
_Noreturn void die(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* As die, with ": " and the text of errno behind the message. */
_Noreturn void die_errno(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* Writes what stdout holds, and dies where that fails. */
void flush_output(void);

/* The number in text (decimal), which option gives; dies unless it is in
 * min..max. */
int parse_number(const char *option, const char *text, int min, int max);

/* The path of a file beside the running program, by /proc/self/exe. The caller
 * frees it. */
char *beside_program(const char *file);

/* Opens a library for reading and tells its size, which is 1..LIBRARY_MAX. */
int open_library(const char *path, size_t *size);

/* Moves a descriptor to a number, closing the old one and what was there. */
int move_fd(int fd, int number);

/* Returns fd, or its new number, which is outside of first..last. */
int keep_clear_of(int fd, int first, int last);

/* If first..last holds 1 or 2, gives stdout and stderr other descriptors, so
 * that output does not end up in the library. */
void keep_output_clear_of(int first, int last);

/* A memfd of that name and size; with a null name a file without a name
 * (O_TMPFILE) in $TMPDIR or /tmp. */
int make_file(const char *name, size_t size);

/* Maps a file for writing. The mapping stays for as long as the program runs,
 * as in the article. */
void *map_file(int fd, size_t size);

/* dlsym, where dlerror tells a missing symbol from a null one. Returns null
 * with *error set (valid until the next dl call of this thread). */
function_t find_function(void *library, const char *name, const char **error);

/*
 * Prints "ready PID" to stdout and waits until somebody (a debugger) sets
 * *flag to 0, then sets it back to 1 for the next wait. Under Yama, lets any
 * process of this user attach meanwhile. Dies after timeout seconds of waiting
 * (0: never); time during which a debugger keeps the process stopped does not
 * count.
 */
void wait_while(volatile int *flag, int timeout);

#endif
