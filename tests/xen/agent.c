/* agent.c - carries out what dom0 writes into this domain's node cmd ("NUMBER COMMAND", with rising numbers), and answers in
 * data/out (the end of what the command printed) and then in data/reply ("NUMBER STATUS"), for ever. All that was printed goes to the
 * console as well, marked. The other side is rig.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xenstore.h>

#define OUT_MAX 1800
#define OUT_FILE "/tmp/agent.out"

static struct xs_handle *xs;

static void put(const char *path, const char *text)
{
    if (!xs_write(xs, XBT_NULL, path, text, (unsigned)strlen(text)))
        perror(path);
}

static int run_shell(const char *command)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        int in = open("/dev/null", O_RDONLY), out = open(OUT_FILE, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(in, 0);
        dup2(out, 1);
        dup2(out, 2);
        close(in);
        close(out);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    /* As the domain's first process it also inherits what others leave. */
    for (pid_t ended = 0; ended != pid;)
        if ((ended = wait(&status)) < 0 && errno != EINTR)
            return 126;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void show_output(void)
{
    static char end[OUT_MAX + 1];
    char line[1000];
    FILE *f = fopen(OUT_FILE, "r");
    if (!f)
        return;
    while (fgets(line, sizeof line, f))
        printf("  | %s%s", line, strchr(line, '\n') ? "" : "\n");
    fflush(stdout);
    long size = ftell(f);
    fseek(f, size > OUT_MAX ? size - OUT_MAX : 0, SEEK_SET);
    size_t n = fread(end, 1, OUT_MAX, f);
    fclose(f);
    while (n && end[n - 1] == '\n')
        n--;
    end[n] = 0;
    put("data/out", end);
}

int main(void)
{
    unsigned long long last = 0;
    unsigned length;
    xs = xs_open(0);
    if (!xs || !xs_watch(xs, "cmd", "cmd")) {
        perror("agent: no xenstore");
        return 1;
    }
    for (;;) {
        char **event = xs_read_watch(xs, &length), *end, reply[64];
        char *command = xs_read(xs, XBT_NULL, "cmd", &length);
        unsigned long long number = command ? strtoull(command, &end, 10) : 0;
        if (number > last && *end == ' ') {
            int status = run_shell(end + 1);
            show_output();
            snprintf(reply, sizeof reply, "%llu %d", number, status);
            put("data/reply", reply);
            last = number;
        }
        free(command);
        free(event);
    }
}
