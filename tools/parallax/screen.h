/* screen.h - a terminal that is drawn over again and again, and given back as it was.
 *
 * One at a time. Threads: the main thread. */
#ifndef TOOLS_PARALLAX_SCREEN_H
#define TOOLS_PARALLAX_SCREEN_H
#include <stdbool.h>

/* Whether stdin and stdout are a terminal that can be drawn on. */
bool screen_possible(void);
/* Takes the terminal over: keys come at once, and what stood there comes back with screen_end, also when a second signal ends the
 * program. */
void screen_begin(void);
void screen_end(void);
/* Draws text, cut to what fits. */
void screen_draw(const char *text);
/* Waits until the time is up, 'q' is pressed, or cancel_fd is readable; false: it is to end. */
bool screen_wait(int cancel_fd, unsigned milliseconds);
#endif
