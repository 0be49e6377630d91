/* log.c - see log.h. */
#include "base/log.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIMIT_WINDOW_MS 60000u
#define LIMIT_LINES 10u

static atomic_int threshold = -1;

void log_set_level(enum log_level level) { atomic_store(&threshold, (int)level); }

static int current_threshold(void)
{
    int t = atomic_load(&threshold);
    if (t < 0) {
        t = getenv("PARALLAX_DEBUG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO;
        atomic_store(&threshold, t);
    }
    return t;
}

static void emit(enum log_level level, const char *fmt, va_list ap)
{
    char line[1024];
    int n = 0;
    if (getenv("JOURNAL_STREAM"))
        n = snprintf(line, sizeof line, "<%d>", (int)level);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    if (m < 0)
        return;
    size_t len = strlen(line);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)line[i] < ' ')
            line[i] = '?';
    line[len++] = '\n';
    ssize_t done = write(STDERR_FILENO, line, len);
    (void)done; /* there is nowhere to report that the log is gone */
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if ((int)level > current_threshold())
        return;
    va_list ap;
    va_start(ap, fmt);
    emit(level, fmt, ap);
    va_end(ap);
}

void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...)
{
    if ((int)level > current_threshold())
        return;
    uint64_t now = clock_monotonic_ms();
    if (now - limit->window_start_ms >= LIMIT_WINDOW_MS || limit->window_start_ms == 0) {
        if (limit->suppressed)
            log_line(level, "messages of this kind suppressed count=%u", limit->suppressed);
        limit->window_start_ms = now;
        limit->used = limit->suppressed = 0;
    }
    if (limit->used >= LIMIT_LINES) {
        limit->suppressed++;
        return;
    }
    limit->used++;
    va_list ap;
    va_start(ap, fmt);
    emit(level, fmt, ap);
    va_end(ap);
}
