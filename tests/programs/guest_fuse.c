/* guest_fuse.c - a guest whose disk is one file: DIR/disk, read and written through a blkif ring.
 *
 *   guest_fuse [--vdev xvda] [--wait SECONDS] DIR
 *
 * Joins the hypervisor as a domain, prints "guest pid=… domid=…", waits for its disk to be attached, mounts DIR and prints
 * "disk …". SIGTERM or an unmount ends it; SIGUSR1 and the end print the ring's counters. The kernel's own file systems run
 * on it through a loop device, which is what the demo does.
 *
 * Design: one thread, one event loop. A FUSE request becomes one ring request; its data lies in memory that the domain grants
 * to its backend, so that it is copied once on this side. Nothing waits: a reply is sent when the ring has answered.
 * 1. A request is taken from the kernel only while a job is free, so memory is bounded and the kernel queues the rest.
 * 2. While the backend is away (restarting), jobs stay out and the kernel waits; no error is made up.
 * 3. Every byte goes through FOPEN_DIRECT_IO: nothing is cached here, so FSYNC on the file is the disk's flush.
 * Data requests are in sectors, as a loop device makes them; others get EINVAL. */
#define FUSE_USE_VERSION 312
#include "base/clock.h"
#include "base/flusher.h"
#include "base/loop.h"
#include "blkfront/blkfront.h"
#include "hypervisor/hypervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define FILE_INODE 2
#define FILE_NAME "disk"
#define SECTOR 512u
#define JOBS 32u
#define JOB_BYTES (256u << 10)
#define JOB_PAGES (JOB_BYTES / HV_PAGE_SIZE)
#define ARENA_SPARE_PAGES 512u /* rings, indirect pages and bounce pages of blkfront */

struct options {
    unsigned vdev, wait_seconds;
    const char *directory;
};

struct job {
    struct blkfront_req ring; /* first */
    struct list_node link;    /* in guest.idle */
    fuse_req_t fuse;
    struct iovec data;        /* JOB_BYTES of granted memory, as much of it as is used */
};

static struct guest {
    struct hv *hv;
    struct loop *loop;
    struct blkfront *disk;
    struct fuse_session *fuse;
    struct fuse_buf request;   /* libfuse's receive buffer, kept from request to request */
    struct loop_fd from_kernel, signals;
    struct loop_task more;     /* takes further requests when jobs are free again */
    struct list_node idle;
    uint64_t size_bytes;       /* of the disk */
    uint64_t connected_ms, counts[BLKFRONT_DISCARD + 1], bytes[BLKFRONT_DISCARD + 1], errors; /* for print_counters */
    bool paused;               /* from_kernel is not looked at, because every job is out */
    struct job jobs[JOBS];
} guest;

/* ---- A request's way to the ring and back ---- */

static void job_done(struct blkfront_req *ring, int error)
{
    struct job *j = container_of(ring, struct job, ring);
    if (error) {
        guest.errors++;
        fuse_reply_err(j->fuse, -error);
    } else if (ring->op == BLKFRONT_READ)
        fuse_reply_buf(j->fuse, j->data.iov_base, ring->length);
    else if (ring->op == BLKFRONT_WRITE)
        fuse_reply_write(j->fuse, ring->length);
    else
        fuse_reply_err(j->fuse, 0);
    list_add_head(&guest.idle, &j->link);
    if (guest.paused)
        loop_defer(guest.loop, &guest.more);
}

/* There is a free job whenever a request is being handled: see take_requests. */
static struct job *job_for(fuse_req_t req)
{
    struct job *j = container_of(list_pop(&guest.idle), struct job, link);
    j->fuse = req;
    return j;
}

static void job_submit(struct job *j, enum blkfront_op op, uint64_t offset_bytes, uint64_t length_bytes)
{
    bool moves_data = op == BLKFRONT_READ || op == BLKFRONT_WRITE;
    j->data.iov_len = moves_data ? length_bytes : 0;
    j->ring = (struct blkfront_req){ .op = op, .offset = offset_bytes, .length = length_bytes, .iov = &j->data, .iov_count = moves_data, .done = job_done };
    guest.counts[op]++;
    guest.bytes[op] += length_bytes;
    blkfront_submit(guest.disk, &j->ring);
}

/* 0, or the positive errno with which FUSE refuses. */
static int check_range(off_t offset_bytes, size_t length_bytes)
{
    if (offset_bytes < 0 || offset_bytes % SECTOR || length_bytes % SECTOR || length_bytes > JOB_BYTES)
        return EINVAL;
    return (uint64_t)offset_bytes > guest.size_bytes || length_bytes > guest.size_bytes - (uint64_t)offset_bytes ? EINVAL : 0;
}

/* ---- The file ---- */

static void fill_attributes(fuse_ino_t inode, struct stat *st)
{
    *st = (struct stat){ .st_ino = inode, .st_nlink = 1, .st_uid = getuid(), .st_gid = getgid() };
    if (inode == FUSE_ROOT_ID) {
        st->st_mode = S_IFDIR | 0700;
        st->st_nlink = 2;
    } else {
        st->st_mode = S_IFREG | 0600;
        st->st_size = (off_t)guest.size_bytes;
        st->st_blksize = 4096;
    }
}

static void on_init(void *ctx, struct fuse_conn_info *conn)
{
    (void)ctx;
    conn->max_write = JOB_BYTES;
    conn->max_read = JOB_BYTES;
    conn->max_background = JOBS;
    conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    if (conn->capable & FUSE_CAP_ASYNC_DIO)
        conn->want |= FUSE_CAP_ASYNC_DIO;
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param e = { .ino = FILE_INODE, .attr_timeout = 1, .entry_timeout = 1 };
    if (parent != FUSE_ROOT_ID || strcmp(name, FILE_NAME)) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    fill_attributes(FILE_INODE, &e.attr);
    fuse_reply_entry(req, &e);
}

static void on_getattr(fuse_req_t req, fuse_ino_t inode, struct fuse_file_info *fi)
{
    struct stat st;
    (void)fi;
    fill_attributes(inode, &st);
    fuse_reply_attr(req, &st, 1);
}

static void on_readdir(fuse_req_t req, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *fi)
{
    static const char *const names[] = { ".", "..", FILE_NAME };
    char list[512];
    size_t used = 0;
    (void)fi;
    if (inode != FUSE_ROOT_ID) {
        fuse_reply_err(req, ENOTDIR);
        return;
    }
    if (size > sizeof list)
        size = sizeof list;
    for (off_t i = offset; i >= 0 && i < 3; i++) {
        struct stat st;
        fill_attributes(i == 2 ? FILE_INODE : FUSE_ROOT_ID, &st);
        size_t need = fuse_add_direntry(req, list + used, size - used, names[i], &st, i + 1);
        if (need > size - used)
            break;
        used += need;
    }
    fuse_reply_buf(req, list, used);
}

static void on_open(fuse_req_t req, fuse_ino_t inode, struct fuse_file_info *fi)
{
    if (inode != FILE_INODE) {
        fuse_reply_err(req, EISDIR);
        return;
    }
    fi->direct_io = 1;
    fuse_reply_open(req, fi);
}

static void on_read(fuse_req_t req, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *fi)
{
    (void)inode;
    (void)fi;
    if (offset >= 0 && (uint64_t)offset % SECTOR == 0 && (uint64_t)offset < guest.size_bytes && size > guest.size_bytes - (uint64_t)offset)
        size = guest.size_bytes - (uint64_t)offset;
    int refused = check_range(offset, size);
    if (refused)
        fuse_reply_err(req, refused);
    else if (size == 0 || (uint64_t)offset == guest.size_bytes)
        fuse_reply_buf(req, NULL, 0);
    else
        job_submit(job_for(req), BLKFRONT_READ, (uint64_t)offset, size);
}

static void on_write(fuse_req_t req, fuse_ino_t inode, const char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
    (void)inode;
    (void)fi;
    int refused = check_range(offset, size);
    if (refused || size == 0) {
        fuse_reply_err(req, refused ? refused : EINVAL);
        return;
    }
    struct job *j = job_for(req);
    memcpy(j->data.iov_base, data, size); /* libfuse's buffer is used for the next request while this one is on the ring */
    job_submit(j, BLKFRONT_WRITE, (uint64_t)offset, size);
}

static void on_fsync(fuse_req_t req, fuse_ino_t inode, int data_only, struct fuse_file_info *fi)
{
    (void)inode;
    (void)data_only;
    (void)fi;
    job_submit(job_for(req), BLKFRONT_FLUSH, 0, 0);
}

/* Punching a hole is a discard, which reads back as zeroes. */
static void on_fallocate(fuse_req_t req, fuse_ino_t inode, int mode, off_t offset, off_t length, struct fuse_file_info *fi)
{
    (void)inode;
    (void)fi;
    if (mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) || offset < 0 || length <= 0 || offset % 4096 || length % SECTOR ||
        (uint64_t)offset >= guest.size_bytes || (uint64_t)length > guest.size_bytes - (uint64_t)offset) {
        fuse_reply_err(req, EOPNOTSUPP);
        return;
    }
    job_submit(job_for(req), BLKFRONT_DISCARD, (uint64_t)offset, (uint64_t)length);
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init, .lookup = on_lookup, .getattr = on_getattr, .readdir = on_readdir, .open = on_open,
    .read = on_read, .write = on_write, .fsync = on_fsync, .fallocate = on_fallocate,
};

/* ---- The loop ---- */

static void take_requests(void)
{
    while (!list_empty(&guest.idle)) {
        int n = fuse_session_receive_buf(guest.fuse, &guest.request);
        if (n == -EINTR)
            continue;
        if (n == -EAGAIN)
            return;
        if (n > 0)
            fuse_session_process_buf(guest.fuse, &guest.request);
        if (n <= 0 || fuse_session_exited(guest.fuse)) {
            loop_stop(guest.loop);
            return;
        }
    }
    guest.paused = true;
    loop_fd_modify(guest.loop, &guest.from_kernel, 0);
}

static void kernel_ready(struct loop_fd *w, uint32_t events)
{
    (void)w;
    (void)events;
    take_requests();
}

static void jobs_free_again(struct loop_task *t)
{
    (void)t;
    guest.paused = false;
    loop_fd_modify(guest.loop, &guest.from_kernel, EPOLLIN);
    take_requests();
}

/* ---- Coming and going ---- */

static void print_counters(void)
{
    struct blkfront_info i;
    blkfront_get_info(guest.disk, &i);
    printf("ring seconds=%.1f requests=%llu responses=%llu events-sent=%llu events-received=%llu reads=%llu read-bytes=%llu writes=%llu "
           "write-bytes=%llu flushes=%llu discards=%llu errors=%llu\n",
           (double)(clock_monotonic_ms() - guest.connected_ms) / 1e3, (unsigned long long)i.requests, (unsigned long long)i.responses,
           (unsigned long long)i.events_sent, (unsigned long long)i.events_received, (unsigned long long)guest.counts[BLKFRONT_READ],
           (unsigned long long)guest.bytes[BLKFRONT_READ], (unsigned long long)guest.counts[BLKFRONT_WRITE],
           (unsigned long long)guest.bytes[BLKFRONT_WRITE], (unsigned long long)guest.counts[BLKFRONT_FLUSH],
           (unsigned long long)guest.counts[BLKFRONT_DISCARD], (unsigned long long)guest.errors);
}

static void signal_ready(struct loop_fd *w, uint32_t events)
{
    struct signalfd_siginfo info;
    (void)events;
    while (read(w->fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGUSR1)
            print_counters();
        else
            loop_stop(guest.loop);
    }
}

static int watch_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    guest.signals = (struct loop_fd){ .ready = signal_ready, .fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC) };
    return guest.signals.fd < 0 ? -errno : loop_fd_add(guest.loop, &guest.signals, EPOLLIN);
}

static int mount_door(const char *directory)
{
    char mount_options[64]; /* libfuse wants the greatest read said here and in on_init */
    char *argv[] = { "guest_fuse", "-o", mount_options, NULL };
    snprintf(mount_options, sizeof mount_options, "fsname=guest_fuse,max_read=%u", JOB_BYTES);
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    guest.fuse = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (!guest.fuse || fuse_session_mount(guest.fuse, directory)) {
        fprintf(stderr, "guest_fuse: cannot mount on %s\n", directory);
        return -EIO;
    }
    int fd = fuse_session_fd(guest.fuse);
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
        return -errno;
    guest.more.run = jobs_free_again;
    guest.from_kernel = (struct loop_fd){ .ready = kernel_ready, .fd = fd };
    return loop_fd_add(guest.loop, &guest.from_kernel, EPOLLIN);
}

static int connect_disk(const struct options *o)
{
    struct error err = ERROR_NONE;
    const struct hv_identity who = { .kind = HV_GUEST, .name = "guest_fuse", .arena_pages = JOBS * JOB_PAGES + ARENA_SPARE_PAGES };
    if (hv_open("local", &who, &guest.hv, &err) == 0) {
        printf("guest pid=%d domid=%u\n", (int)getpid(), hv_own_domid(guest.hv));
        blkfront_open(guest.hv, guest.loop, &(struct blkfront_options){ .vdev = o->vdev, .timeout_ms = o->wait_seconds * 1000, .ring_order = 2 }, &guest.disk, &err);
    }
    if (err.code) {
        fprintf(stderr, "guest_fuse: %s\n", err.text);
        return err.code;
    }
    list_init(&guest.idle);
    for (unsigned i = 0; i < JOBS; i++) {
        guest.jobs[i].data.iov_base = blkfront_buffer_alloc(guest.disk, JOB_PAGES);
        if (!guest.jobs[i].data.iov_base)
            return -ENOMEM;
        list_add_tail(&guest.idle, &guest.jobs[i].link);
    }
    struct blkfront_info info;
    blkfront_get_info(guest.disk, &info);
    guest.size_bytes = info.size_bytes;
    guest.connected_ms = clock_monotonic_ms();
    printf("disk bytes=%llu ring-pages=%u max-segments=%u flush=%d discard=%d\n", (unsigned long long)info.size_bytes, info.ring_pages,
           info.max_segments, info.flush, info.discard);
    return 0;
}

static bool parse_options(int argc, char **argv, struct options *o)
{
    static const struct option known[] = { { "vdev", required_argument, NULL, 'v' }, { "wait", required_argument, NULL, 'w' }, { 0 } };
    *o = (struct options){ .wait_seconds = 60 };
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 'v')
            o->vdev = blkfront_vdev_number(optarg);
        else if (c == 'w')
            o->wait_seconds = (unsigned)strtoul(optarg, NULL, 10);
        if (c == '?' || (c == 'v' && o->vdev == 0))
            return false;
    }
    o->directory = optind + 1 == argc ? argv[optind] : NULL;
    return o->directory;
}

int main(int argc, char **argv)
{
    struct options o;
    if (!parse_options(argc, argv, &o)) {
        fprintf(stderr, "usage: guest_fuse [--vdev xvda] [--wait SECONDS] DIR\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    flusher_begin();
    if (loop_create(&guest.loop) || watch_signals() || connect_disk(&o) || mount_door(o.directory))
        return 1;
    loop_run(guest.loop);
    fuse_session_unmount(guest.fuse);
    loop_fd_remove(guest.loop, &guest.from_kernel);
    print_counters();
    blkfront_close(guest.disk);
    hv_close(guest.hv);
    fuse_session_destroy(guest.fuse);
    return 0;
}
