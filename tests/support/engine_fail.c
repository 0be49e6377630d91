/* engine_fail.c - see engine_fail.h. */
#include "tests/support/engine_fail.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TRACE_LINES 2000u

struct engine_where engine_where = { "start", 0, 0 };

static char trace[TRACE_LINES][160];
static uint64_t traced;

void engine_trace(const char *fmt, ...)
{
    static int on = -1;
    if (on < 0)
        on = getenv("TRACE") != NULL;
    if (!on)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(trace[traced++ % TRACE_LINES], sizeof trace[0], fmt, ap);
    va_end(ap);
}

void engine_fail(const char *fmt, ...)
{
    char what[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    for (uint64_t i = traced > TRACE_LINES ? traced - TRACE_LINES : 0; i < traced; i++)
        printf("# %s\n", trace[i % TRACE_LINES]);
    /* A line of progress may stand there unfinished. */
    printf("\nnot ok parallax: %s - %s (SEED=%llu, step %llu)\n", engine_where.test, what, (unsigned long long)engine_where.seed,
           (unsigned long long)engine_where.step);
    fflush(stdout);
    if (getenv("ABORT"))
        abort();
    _exit(1);
}

void *engine_alloc(size_t bytes)
{
    void *p = calloc(1, bytes);
    if (!p)
        engine_fail("out of memory for %zu bytes", bytes);
    return p;
}
