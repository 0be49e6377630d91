/* screen.c - see screen.h. Escape sequences of ECMA-48 and xterm's second screen, which every terminal of today knows. */
#include "tools/parallax/screen.h"

#include "base/clock.h"
#include "tools/parallax/cli.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define ENTER "\033[?1049h\033[?25l"
#define LEAVE "\033[?25h\033[?1049l"
#define HOME "\033[H"
#define CLEAR_LINE "\033[K\r\n"
#define CLEAR_REST "\033[J"

static struct termios before;

bool screen_possible(void)
{
    const char *term = getenv("TERM");
    return isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) && term && *term && strcmp(term, "dumb");
}

/* From a signal handler too: calls nothing that may not be called there. */
static void give_back(void)
{
    ssize_t n = write(STDOUT_FILENO, LEAVE, sizeof LEAVE - 1);
    (void)n;
    tcsetattr(STDIN_FILENO, TCSANOW, &before);
}

void screen_begin(void)
{
    tcgetattr(STDIN_FILENO, &before);
    struct termios raw = before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO); /* signals stay on: Ctrl-C ends it as it ends everything */
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    cli_before_abort = give_back;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    fputs(ENTER, stdout);
    fflush(stdout);
}

void screen_end(void)
{
    fflush(stdout);
    give_back();
    cli_before_abort = NULL;
}

void screen_draw(const char *text)
{
    struct winsize size = { .ws_row = 0 };
    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    if (!size.ws_row || !size.ws_col) /* a serial line does not know */
        size = (struct winsize){ .ws_row = 24, .ws_col = 80 };
    fputs(HOME, stdout);
    for (unsigned row = 0; *text && row + 1 < size.ws_row; row++) {
        size_t length = strcspn(text, "\n");
        fwrite(text, 1, length < size.ws_col ? length : size.ws_col, stdout);
        fputs(CLEAR_LINE, stdout);
        text += length + (text[length] == '\n');
    }
    fputs(CLEAR_REST, stdout);
    fflush(stdout);
}

/* Whether q, or the end of the terminal, was read. */
static bool quit_key(void)
{
    char keys[32];
    ssize_t n = read(STDIN_FILENO, keys, sizeof keys);
    return n <= 0 || memchr(keys, 'q', (size_t)n) || memchr(keys, 'Q', (size_t)n);
}

bool screen_wait(int cancel_fd, unsigned milliseconds)
{
    uint64_t now = clock_monotonic_ms(), until = now + milliseconds;
    struct pollfd p[2] = { { .fd = cancel_fd, .events = POLLIN }, { .fd = STDIN_FILENO, .events = POLLIN } };
    for (; now < until; now = clock_monotonic_ms()) {
        if (poll(p, 2, (int)(until - now)) < 0)
            continue;
        if (p[0].revents || (p[1].revents && quit_key()))
            return false;
    }
    return true;
}
