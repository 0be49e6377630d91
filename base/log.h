/* log.h - messages for the operator, on stderr, in the form journald reads ("<N>text" when JOURNAL_STREAM is set).
 *
 * Any thread may log; a line is written by one write(2) and never torn. Lines are key=value after a short phrase and name
 * objects by id. Debug lines are off unless PARALLAX_DEBUG is set or log_set_level asked for them. A hostile peer must not
 * fill the log: use log_limited for whatever a guest can trigger. */
#ifndef BASE_LOG_H
#define BASE_LOG_H
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARNING = 4, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7 };

void log_set_level(enum log_level level);
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* A budget of 10 lines a minute for one source of messages; zero-initialise it. Belongs to one thread. */
struct log_limit {
    uint64_t window_start_ms;
    unsigned used, suppressed;
};
void log_limited(struct log_limit *limit, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#endif
