/* disk_aio.c - libaio's calls, as this program has them: requests complete in random order, at random moments, as a device's
 * queue may. See disk.h.
 *
 * The context looks to its user like a completion ring of a kind not known, so that completions are asked for by io_getevents.
 * A request takes effect when it completes. While some wait, the eventfd stays readable: whoever waits on it comes, and a few
 * more complete. A request that a fault makes late completes when no other is left. One thread at a time uses a context. */
#include "tests/disk/disk_private.h"

#include <errno.h>
#include <libaio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#pragma GCC visibility push(default)

#define WAITING_MAX 1024u
#define USES_EVENTFD 1u

struct waiting {
    struct iocb *cb;
    struct disk_change *change; /* of a write: its place in the record */
    size_t length;              /* how much of it is done */
    uint64_t begun;
    bool bad;
    struct disk_fault fault;
};

struct context {
    char head[64]; /* all zero, so no ring's */
    unsigned count;
    struct waiting waiting[WAITING_MAX];
};

static uint64_t random_state = 1;

void disk_aio_seed(uint64_t seed) { random_state = seed | 1; }

int io_setup(int depth, io_context_t *out)
{
    struct context *c = (unsigned)depth <= WAITING_MAX ? calloc(1, sizeof *c) : NULL;
    if (!c)
        return -ENOMEM;
    *out = (io_context_t)c;
    return 0;
}

/* What was given to the disk and never answered may still get there: the record keeps it. */
int io_destroy(io_context_t context)
{
    free(context);
    return 0;
}

static bool is_write(const struct iocb *cb) { return cb->aio_lio_opcode == IO_CMD_PWRITE || cb->aio_lio_opcode == IO_CMD_PWRITEV; }
static bool is_flush(const struct iocb *cb) { return cb->aio_lio_opcode == IO_CMD_FDSYNC || cb->aio_lio_opcode == IO_CMD_FSYNC; }

/* The request's memory as iovecs, and how many bytes they are. */
static const struct iovec *memory_of(const struct iocb *cb, struct iovec *one, int *count, size_t *length)
{
    const struct iovec *iov = one;
    *one = (struct iovec){ cb->u.c.buf, cb->u.c.nbytes };
    *count = 1;
    *length = 0;
    if (cb->aio_lio_opcode == IO_CMD_PREADV || cb->aio_lio_opcode == IO_CMD_PWRITEV) {
        *count = (int)cb->u.c.nbytes;
        iov = cb->u.c.buf;
    }
    for (int i = 0; i < *count; i++)
        *length += iov[i].iov_len;
    return iov;
}

static void wake(const struct iocb *cb)
{
    uint64_t one = 1;
    if (cb->u.c.flags & USES_EVENTFD)
        syscall(SYS_write, cb->u.c.resfd, &one, sizeof one);
}

static void begin(struct waiting *w, struct iocb *cb)
{
    struct disk_file *f = disk_file_of(cb->aio_fildes);
    struct iovec one;
    int count;
    *w = (struct waiting){ .cb = cb, .begun = disk_now() };
    w->bad = f && disk_meets_fault(is_write(cb) ? DISK_WRITE : is_flush(cb) ? DISK_FLUSH : DISK_READ, &w->fault);
    if (is_flush(cb))
        return;
    const struct iovec *iov = memory_of(cb, &one, &count, &w->length);
    if (w->bad && w->fault.manner == DISK_SHORT)
        w->length = w->length / 2 & ~511ul;
    if (!f || !is_write(cb) || (w->bad && w->fault.manner == DISK_FAILS))
        return;
    unsigned char *all = malloc(w->length + 1);
    if (!all)
        abort();
    for (size_t at = 0, i = 0; at < w->length; at += iov[i++].iov_len)
        memcpy(all + at, iov[i].iov_base, iov[i].iov_len < w->length - at ? iov[i].iov_len : w->length - at);
    w->change = disk_change_new(DISK_DATA, f, (uint64_t)cb->u.c.offset, w->length, all);
    free(all);
}

int io_submit(io_context_t context, long count, struct iocb **list)
{
    struct context *c = (struct context *)context;
    long done = 0;
    disk_lock();
    for (; done < count && c->count < WAITING_MAX; done++) {
        begin(&c->waiting[c->count++], list[done]);
        wake(list[done]);
    }
    if (done)
        disk_boundary(false);
    disk_unlock();
    return done ? (int)done : count ? -EAGAIN : 0;
}

static long transfer(struct waiting *w)
{
    const struct iocb *cb = w->cb;
    struct iovec part[1024], one;
    int count, n = 0;
    size_t all, left = w->length;
    const struct iovec *iov = memory_of(cb, &one, &count, &all);
    for (; n < count && left; left -= part[n++].iov_len)
        part[n] = (struct iovec){ iov[n].iov_base, iov[n].iov_len < left ? iov[n].iov_len : left };
    long rc = syscall(is_write(cb) ? SYS_pwritev : SYS_preadv, cb->aio_fildes, part, n, cb->u.c.offset, 0);
    return rc < 0 ? -errno : rc;
}

/* The request takes effect; the answer. */
static long complete(struct waiting *w)
{
    bool refused = w->bad && w->fault.manner != DISK_LATE && (w->fault.manner == DISK_FAILS || !w->length);
    long result = 0;
    if (is_flush(w->cb)) {
        struct disk_file *f = disk_file_of(w->cb->aio_fildes);
        if (f && !refused)
            disk_flushed(f, w->begun);
    } else if (!refused) {
        result = transfer(w);
        if (!is_write(w->cb))
            disk_note_read(disk_file_of(w->cb->aio_fildes), (uint64_t)w->cb->u.c.offset, w->length);
        if (w->change)
            w->change->completed = disk_now();
    }
    return refused || (w->bad && w->fault.manner == DISK_LATE) ? -w->fault.error : result;
}

/* Which is next to complete: any, but the late ones last. */
static unsigned pick(const struct context *c)
{
    unsigned first = (unsigned)(disk_random(&random_state) % c->count);
    for (unsigned i = 0; i < c->count; i++) {
        unsigned at = (first + i) % c->count;
        if (!c->waiting[at].bad || c->waiting[at].fault.manner != DISK_LATE)
            return at;
    }
    return first;
}

int io_getevents(io_context_t context, long least, long most, struct io_event *events, struct timespec *timeout)
{
    (void)timeout;
    struct context *c = (struct context *)context;
    long n = 0;
    bool flushed = false;
    disk_lock();
    if (c->count)
        disk_boundary(false);
    while (n < most && c->count && (n < least || disk_random(&random_state) % 4)) {
        unsigned at = pick(c);
        struct waiting *w = &c->waiting[at];
        flushed |= is_flush(w->cb);
        events[n++] = (struct io_event){ .data = w->cb->data, .obj = w->cb, .res = (unsigned long)complete(w) };
        c->waiting[at] = c->waiting[--c->count];
    }
    if (n)
        disk_boundary(flushed);
    if (c->count)
        wake(c->waiting[0].cb);
    disk_unlock();
    return (int)n;
}
