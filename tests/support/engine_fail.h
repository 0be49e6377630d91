/* engine_fail.h - how the engine's random tests give up: the state of store and oracle is of no use after the first fault.
 *
 * engine_fail prints "not ok SUITE: TEST - what (seed, step)" as tests/run expects it and ends the program with status 1;
 * with ABORT set in the environment it aborts instead, for a debugger. */
#ifndef TESTS_SUPPORT_ENGINE_FAIL_H
#define TESTS_SUPPORT_ENGINE_FAIL_H
#include <stddef.h>
#include <stdint.h>

/* What engine_fail names; set by the test. */
extern struct engine_where {
    const char *test;
    uint64_t seed, step;
} engine_where;

void engine_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Zeroed memory; never NULL. */
void *engine_alloc(size_t bytes);
/* A line in a ring of the last few hundred, which engine_fail prints when TRACE is set in the environment. */
void engine_trace(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#endif
