int foo(int x) { return 2 * x; }

/*
 * The library of the article, which from_file, from_memory and the rFaaS
 * programs load. The function opens and ends on line 1, so that a debugger
 * that has read the right file says: foo (x=21) at lib.c:1
 *
 * It has no soname: glibc would take two copies with one soname for the same
 * library, and from_memory --copies needs them apart.
 */
