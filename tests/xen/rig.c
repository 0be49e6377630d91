/* rig.c - what the scripts of the rig do most often with the xenstore, in one program: starting a process costs a domain in the
 * emulation ten to a hundred times what its work does, and asking again and again takes the processor from the domains asked about.
 *
 *   rig id DOMAIN                        the number of the domain of that name
 *   rig read PATH, rig exists PATH       a node
 *   rig await PATH VALUE SECONDS         waits until the node has that value; 124 too late
 *   rig start DOMAIN COMMAND             has the domain's agent begin a shell command, without waiting for it
 *   rig finish DOMAIN [SECONDS]          waits for what was begun; prints the end of what it printed; its status, 124 too late, 125 no
 *                                        such domain or a domain that went
 *   rig run DOMAIN COMMAND [SECONDS]     start and finish
 *
 * The other side is agent.c. Linked statically, which makes it three times as quick to start; libxenstore's thread for watches does
 * not live in such a program, so the answer is looked for now and then. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xenstore.h>

#define LIMIT_S 600
#define LOOK_US 20000u
#define TOO_LATE 124
#define NO_DOMAIN 125

static struct xs_handle *xs;

static char *get(const char *path)
{
    unsigned length;
    return xs_read(xs, XBT_NULL, path, &length);
}

static void put(const char *path, const char *text)
{
    if (!xs_write(xs, XBT_NULL, path, text, (unsigned)strlen(text)))
        perror(path);
}

static bool exists(const char *path)
{
    unsigned count;
    char **names = xs_directory(xs, XBT_NULL, path, &count);
    free(names);
    return names != NULL;
}

static unsigned long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (unsigned long long)t.tv_sec * 1000000000ull + (unsigned long long)t.tv_nsec;
}

/* -1: there is none. */
static int domain_id(const char *name)
{
    unsigned count = 0;
    char **ids = xs_directory(xs, XBT_NULL, "/local/domain", &count);
    int found = -1;
    for (unsigned i = 0; i < count && found < 0; i++) {
        char path[64];
        snprintf(path, sizeof path, "/local/domain/%.10s/name", ids[i]);
        char *its = get(path);
        if (its && !strcmp(its, name))
            found = atoi(ids[i]);
        free(its);
    }
    free(ids);
    return found;
}

static void node(char out[64], int id, const char *below) { snprintf(out, 64, "/local/domain/%d%s", id, below); }

static int await(const char *path, const char *want, int limit_s)
{
    for (unsigned long long end = now_ns() + (unsigned long long)limit_s * 1000000000ull;; usleep(LOOK_US)) {
        char *text = get(path);
        bool has = text && !strcmp(text, want);
        free(text);
        if (has || now_ns() > end)
            return has ? 0 : TOO_LATE;
    }
}

/* Numbers rise, also over the life of a domain that is restored under another number. */
static int start(const char *name, const char *command)
{
    char path[64], text[4000];
    int id = domain_id(name);
    if (id < 0)
        return NO_DOMAIN;
    node(path, id, "/cmd");
    if (!exists(path)) {
        struct xs_permissions may[2] = { { 0, XS_PERM_NONE }, { (unsigned)id, XS_PERM_READ } };
        put(path, "");
        xs_set_permissions(xs, XBT_NULL, path, may, 2);
    }
    if (snprintf(text, sizeof text, "%llu %s", now_ns(), command) >= (int)sizeof text) {
        fprintf(stderr, "rig: the command is too long\n");
        return 1;
    }
    put(path, text);
    return 0;
}

static int finish(const char *name, int limit_s)
{
    char command[64], reply[64], out[64], domain[64];
    int id = domain_id(name);
    if (id < 0)
        return NO_DOMAIN;
    node(domain, id, "");
    node(command, id, "/cmd");
    node(reply, id, "/data/reply");
    node(out, id, "/data/out");
    char *text = get(command);
    unsigned long long want = text ? strtoull(text, NULL, 10) : 0, end = now_ns() + (unsigned long long)limit_s * 1000000000ull;
    free(text);
    for (;; usleep(LOOK_US)) {
        char *status;
        text = get(reply);
        if (text && strtoull(text, &status, 10) == want) {
            int rc = atoi(status);
            free(text);
            if ((text = get(out)))
                puts(text);
            free(text);
            return rc;
        }
        free(text);
        if (!exists(domain))
            return NO_DOMAIN;
        if (now_ns() > end) {
            printf("no answer from %s\n", name);
            return TOO_LATE;
        }
    }
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "", *what = argc > 2 ? argv[2] : "";
    int id, status;
    xs = xs_open(0);
    if (!xs) {
        perror("rig: no xenstore");
        return 126;
    }
    if (!strcmp(verb, "id")) {
        if ((id = domain_id(what)) >= 0)
            printf("%d\n", id);
        return id < 0;
    }
    if (!strcmp(verb, "exists"))
        return !exists(what);
    if (!strcmp(verb, "read")) {
        char *text = get(what);
        if (text)
            puts(text);
        return !text;
    }
    if (!strcmp(verb, "await") && argc > 4)
        return await(what, argv[3], atoi(argv[4]));
    if (!strcmp(verb, "start") && argc > 3)
        return start(what, argv[3]);
    if (!strcmp(verb, "finish"))
        return finish(what, argc > 3 ? atoi(argv[3]) : LIMIT_S);
    if (!strcmp(verb, "run") && argc > 3)
        return (status = start(what, argv[3])) ? status : finish(what, argc > 4 ? atoi(argv[4]) : LIMIT_S);
    fprintf(stderr, "rig: id, read, exists, await, start, finish or run\n");
    return 2;
}
