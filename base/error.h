/* error.h - an error that a person can act on.
 *
 * Functions return 0 or a negative errno. Those whose failure reaches a person also fill a struct error: one line that says
 * what failed, on which object, why, and what to do. The first error is kept: error_set on a struct that already holds one
 * changes nothing, so that clean-up cannot hide the cause. Threads: a struct error belongs to one operation. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

struct error {
    int code;       /* 0, or the negative errno of the first failure */
    char text[512]; /* one line, no newline */
};

#define ERROR_NONE { 0, "" }

/* Records code and the formatted line if err holds no error yet; returns the code that err then holds.
 * err may be NULL: then nothing is recorded and code is returned. */
int error_set(struct error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#endif
