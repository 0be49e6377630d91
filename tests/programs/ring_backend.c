/* ring_backend.c - a storage domain whose images are plain files: the backend alone, without the store under it.
 *
 *   ring_backend [--persistent] [--hide FEATURES] [--buffers BYTES] [--delay-us N] [--name NAME] STATE-DIR IMAGE-DIR
 *
 * `params` names a file in IMAGE-DIR. Prints "ready domid=N pid=N", serves until SIGTERM or SIGINT (rings stay as they are),
 * prints a line of JSON with the sum of all devices and of what is still open, and ends. A request ends after a random time up
 * to the delay, so that requests are out in any order when the process is killed. A write is in the file when it ends (the
 * page cache survives this process). This is parallax.h's image interface for tests of rings; parallaxd is the real thing. */
#include "base/loop.h"
#include "blkback/blkback.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct image {
    struct list_node link;
    int fd;
    bool writer;
    uint64_t size_bytes;
    char name[IMAGE_TARGET_SIZE];
};

static struct {
    struct loop *loop;
    const char *dir;
    uint64_t delay_us, random;
    struct list_node images, waiting;
    struct loop_task work;
    struct loop_timer timer;
} host = { .random = 88172645463325252ull };

int image_open(struct store *s, const char *target, const struct image_open_options *opt, struct image **out, struct error *err)
{
    char path[512];
    struct stat st;
    bool writer = opt->mode == IMAGE_READ_WRITE;
    (void)s;
    if (strchr(target, '/') || !*target)
        return error_set(err, -EINVAL, "'%s' is no name of an image", target);
    list_for_each (n, &host.images) {
        struct image *other = container_of(n, struct image, link);
        if (writer && other->writer && !strcmp(other->name, target))
            return error_set(err, -EBUSY, "image '%s' has a writer", target);
    }
    snprintf(path, sizeof path, "%s/%s", host.dir, target);
    int fd = open(path, writer ? O_RDWR : O_RDONLY);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_set(err, -errno, "no image '%s'", target);
    struct image *img = calloc(1, sizeof *img);
    if (!img)
        return -ENOMEM;
    img->fd = fd;
    img->writer = writer;
    img->size_bytes = (uint64_t)st.st_size & ~511ull;
    snprintf(img->name, sizeof img->name, "%s", target);
    list_add_tail(&host.images, &img->link);
    *out = img;
    return 0;
}

void image_close(struct image *img)
{
    list_remove(&img->link);
    close(img->fd);
    free(img);
}

void store_stop_waiting(struct store *s) { (void)s; }
void image_stop_waiting(struct image *img) { (void)img; }
bool image_waits(const struct image *img)
{
    (void)img;
    return false;
}
uint64_t image_size(const struct image *img) { return img->size_bytes; }
void image_name(const struct image *img, char out[static IMAGE_TARGET_SIZE]) { memcpy(out, img->name, IMAGE_TARGET_SIZE); }
void image_identity(const struct image *img, char out[static IMAGE_TARGET_SIZE]) { image_name(img, out); } /* nobody renames files here */

static int carry_out(struct image_req *req)
{
    int fd = req->image->fd;
    ssize_t n = (ssize_t)req->length;
    switch (req->op) {
    case IMAGE_READ:
        n = preadv(fd, req->iov, (int)req->iov_count, (off_t)req->offset);
        break;
    case IMAGE_WRITE:
        n = pwritev(fd, req->iov, (int)req->iov_count, (off_t)req->offset);
        break;
    case IMAGE_DISCARD:
        /* Zeroed in place where the file system can, so that the file keeps its space whatever else fills the disk. */
        if (fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)req->offset, (off_t)req->length) == 0)
            return 0;
        return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)req->offset, (off_t)req->length) < 0 ? -errno : 0;
    case IMAGE_FLUSH:
        return 0;
    }
    if (n != (ssize_t)req->length)
        fprintf(stderr, "image %s: operation %d of %llu bytes came to %zd: %s\n", req->image->name, req->op, (unsigned long long)req->length, n,
                n < 0 ? strerror(errno) : "short (is the file system full?)");
    return n < 0 ? -errno : n != (ssize_t)req->length ? -EIO : 0;
}

/* Ends some of what waits, picked at random; all of it when there is no delay. */
static void work(void)
{
    struct list_node left = LIST_INIT(left), *n;
    while ((n = list_pop(&host.waiting))) {
        struct image_req *req = container_of(n, struct image_req, link);
        if (host.delay_us && unit_random(&host.random) % 2)
            list_add_tail(&left, n);
        else
            req->done(req, carry_out(req));
    }
    list_splice_tail(&host.waiting, &left);
    if (!list_empty(&host.waiting))
        loop_timer_start(host.loop, &host.timer, 1 + unit_random(&host.random) % (host.delay_us / 1000 + 1));
}

static void work_task(struct loop_task *t)
{
    (void)t;
    work();
}

static void work_timer(struct loop_timer *t)
{
    (void)t;
    work();
}

void image_submit(struct image *img, struct image_req *req)
{
    req->image = img;
    list_add_tail(&host.waiting, &req->link);
    loop_defer(host.loop, &host.work);
}

/* ---- The program ---- */

static const struct option options[] = {
    { "persistent", no_argument, NULL, 'p' }, { "hide", required_argument, NULL, 'h' }, { "buffers", required_argument, NULL, 'b' },
    { "delay-us", required_argument, NULL, 'd' }, { "name", required_argument, NULL, 'n' }, { 0 } };

static void on_signal(struct loop_fd *w, uint32_t events)
{
    struct signalfd_siginfo info;
    (void)events;
    if (read(w->fd, &info, sizeof info) == sizeof info)
        loop_stop(host.loop);
}

static int add_up(void *ctx, const struct blkback_device_info *info)
{
    struct blkback_device_info *sum = ctx;
    sum->vdev++;
    sum->reads += info->reads;
    sum->writes += info->writes;
    sum->errors += info->errors;
    sum->events_received += info->events_received;
    sum->events_sent += info->events_sent;
    sum->batches += info->batches;
    sum->grants_mapped += info->grants_mapped;
    return 0;
}

static void report(struct blkback *b)
{
    struct blkback_device_info sum = { 0 };
    unsigned open_images = 0;
    blkback_each_device(b, add_up, &sum);
    list_for_each (n, &host.images)
        open_images++;
    printf("{\"devices\":%u,\"open-images\":%u,\"reads\":%llu,\"writes\":%llu,\"errors\":%llu,\"events-received\":%llu,\"events-sent\":%llu,\"batches\":%llu}\n",
           sum.vdev, open_images, (unsigned long long)sum.reads, (unsigned long long)sum.writes, (unsigned long long)sum.errors,
           (unsigned long long)sum.events_received, (unsigned long long)sum.events_sent, (unsigned long long)sum.batches);
}

int main(int argc, char **argv)
{
    struct blkback_hiding hiding = { .glob = "*" };
    struct blkback_options opt = { .hidings = &hiding, .hiding_count = 1 };
    struct hv_identity who = { .kind = HV_NAMED, .name = "storage" };
    struct error err = ERROR_NONE;
    struct hv *hv;
    struct blkback *b;
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'p': opt.persistent = true; break;
        case 'h': hiding.features = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'b': opt.buffer_bytes = strtoull(optarg, NULL, 0); break;
        case 'd': host.delay_us = strtoull(optarg, NULL, 0); break;
        case 'n': who.name = optarg; break;
        default: return 2;
        }
    }
    if (optind + 2 != argc)
        return 2;
    opt.state_dir = argv[optind];
    host.dir = argv[optind + 1];
    host.random ^= (uint64_t)getpid() << 20;
    list_init(&host.images);
    list_init(&host.waiting);
    host.work.run = work_task;
    host.timer.expired = work_timer;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    struct loop_fd watch = { .ready = on_signal, .fd = signalfd(-1, &signals, SFD_CLOEXEC) };
    if (loop_create(&host.loop) || loop_fd_add(host.loop, &watch, EPOLLIN) || hv_open("local", &who, &hv, &err) ||
        blkback_start(hv, NULL, host.loop, &opt, &b, &err)) {
        fprintf(stderr, "ring_backend: %s\n", err.text);
        return 1;
    }
    printf("ready domid=%u pid=%d\n", hv_own_domid(hv), (int)getpid());
    fflush(stdout);
    loop_run(host.loop);
    report(b);
    blkback_stop(b, true);
    loop_fd_remove(host.loop, &watch);
    hv_close(hv);
    loop_destroy(host.loop);
    return 0;
}
