/* mount.c - the session: what is asked of the kernel, the workers, and the end.
 *
 * 1. Signals go to one thread, which asks the kernel to unmount while the workers still serve: what the kernel has not written
 *    yet is written. A file system in use, or a storage domain that is away, is not waited for longer than UNMOUNT_MS; then
 *    the file system is taken out of the tree, and who has files open finds them dead.
 * 2. O_TRUNC is a request of its own (no atomic_o_trunc), so that it can be told apart and ignored without the kernel believing
 *    for a moment that the file is empty. */
#include "doors/fuse/fuse_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define UNMOUNT_MS 1000u
#define GRACE_MS 500u
#define LOOK_EVERY_MS 20u
#define KERNEL_REQUESTS 64u /* that nobody waits for: read ahead, asynchronous direct I/O, write back */

static void on_init(void *ctx, struct fuse_conn_info *conn)
{
    (void)ctx;
    const unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_AUTO_INVAL_DATA;
    /* Data are copied once into granted memory; a pipe in between would be a second copy. */
    const unsigned unwanted = FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_READDIRPLUS |
                              FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_WRITEBACK_CACHE;
    conn->want = (conn->want & ~unwanted) | (conn->capable & wanted);
    conn->max_write = conn->max_read = FUSE_DOOR_TRANSFER_BYTES;
    conn->max_background = KERNEL_REQUESTS;
    conn->congestion_threshold = KERNEL_REQUESTS * 3 / 4;
}

static const struct fuse_lowlevel_ops operations = {
    .init = on_init, .lookup = tree_lookup, .forget = tree_forget, .getattr = tree_getattr, .opendir = tree_opendir, .readdir = tree_readdir,
    .releasedir = tree_releasedir, .statfs = tree_statfs, .open = data_open, .release = data_release, .read = data_read, .write = data_write,
    .fsync = data_fsync, .fallocate = data_fallocate, .lseek = data_lseek, .setattr = change_setattr, .unlink = change_unlink,
    .rename = change_rename, .mknod = change_mknod, .mkdir = change_mkdir, .rmdir = change_rmdir, .symlink = change_symlink, .link = change_link,
};

/* ---- The end ---- */

struct stopper {
    struct fuse_mount *mount;
    pthread_t thread, main;
    sigset_t signals;
    bool ended; /* atomic: the workers have ended */
};

static void nap(void)
{
    struct timespec moment = { .tv_nsec = LOOK_EVERY_MS * 1000000 };
    nanosleep(&moment, NULL);
}

static bool has_ended(const struct stopper *s) { return __atomic_load_n(&s->ended, __ATOMIC_ACQUIRE); }

/* Has fusermount3 unmount, which refuses while the file system is in use. */
static void ask_unmount(const struct stopper *s)
{
    char *argv[] = { "fusermount3", "-u", "-q", "--", (char *)s->mount->opt.directory, NULL };
    posix_spawnattr_t attr;
    sigset_t none;
    pid_t pid;
    sigemptyset(&none);
    posix_spawnattr_init(&attr);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    int bad = posix_spawnp(&pid, argv[0], NULL, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    if (bad)
        return;
    uint64_t until = clock_monotonic_ms() + UNMOUNT_MS;
    while (waitpid(pid, NULL, WNOHANG) == 0) {
        if (clock_monotonic_ms() >= until) {
            kill(pid, SIGKILL);
            return; /* it may hang in the kernel until the session ends */
        }
        nap();
    }
}

/* SIGUSR1 only makes the main thread look whether it is to end. */
static void on_wake(int number) { (void)number; }

static void *stop(void *arg)
{
    struct stopper *s = arg;
    int number;
    do
        sigwait(&s->signals, &number);
    while (number == SIGUSR2 && !has_ended(s));
    if (has_ended(s))
        return NULL;
    ask_unmount(s);
    door_stop(s->mount->door, GRACE_MS);
    fuse_session_exit(s->mount->session);
    while (!has_ended(s)) {
        pthread_kill(s->main, SIGUSR1);
        nap();
    }
    return NULL;
}

static int stopper_start(struct stopper *s, struct fuse_mount *m)
{
    struct sigaction wake = { .sa_handler = on_wake }, ignore = { .sa_handler = SIG_IGN };
    *s = (struct stopper){ .mount = m, .main = pthread_self() };
    sigaction(SIGUSR1, &wake, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
    sigemptyset(&s->signals);
    sigaddset(&s->signals, SIGTERM);
    sigaddset(&s->signals, SIGINT);
    sigaddset(&s->signals, SIGHUP);
    sigaddset(&s->signals, SIGUSR2); /* from stopper_join */
    pthread_sigmask(SIG_BLOCK, &s->signals, NULL);
    return -pthread_create(&s->thread, NULL, stop, s);
}

static void stopper_join(struct stopper *s)
{
    __atomic_store_n(&s->ended, true, __ATOMIC_RELEASE);
    pthread_kill(s->thread, SIGUSR2);
    pthread_join(s->thread, NULL);
}

/* ---- The session ---- */

/* The last thing that libfuse said: why it could not mount. */
static char complaint[256];

static void keep_complaint(enum fuse_log_level level, const char *format, va_list ap)
{
    (void)level;
    vsnprintf(complaint, sizeof complaint, format, ap);
    complaint[strcspn(complaint, "\n")] = '\0';
}

static void log_complaint(enum fuse_log_level level, const char *format, va_list ap)
{
    keep_complaint(level, format, ap);
    log_warning("%s", complaint);
}

static int mount_session(struct fuse_mount *m, struct error *err)
{
    const struct fuse_door_options *o = &m->opt;
    bool for_others = o->uid != geteuid() || o->mode & 077;
    char text[256];
    char *argv[] = { "parallax-mount", "-o", text, NULL };
    snprintf(text, sizeof text, "fsname=parallax,subtype=parallax,default_permissions,max_read=%u%s%s", FUSE_DOOR_TRANSFER_BYTES,
             for_others ? ",allow_other" : "", o->read_only ? ",ro" : "");
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    fuse_set_log_func(keep_complaint);
    m->session = fuse_session_new(&args, &operations, sizeof operations, m);
    fuse_opt_free_args(&args);
    if (!m->session || fuse_session_mount(m->session, o->directory)) {
        error_set(err, -EIO, "cannot mount on %s: %s", o->directory, *complaint ? complaint : "libfuse does not say why");
        if (m->session)
            fuse_session_destroy(m->session);
        return err->code;
    }
    fuse_set_log_func(log_complaint);
    return 0;
}

static int serve(struct fuse_mount *m, struct error *err)
{
    struct stopper stopper;
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    int bad = config ? stopper_start(&stopper, m) : -ENOMEM;
    if (!bad) {
        fuse_loop_cfg_set_max_threads(config, FUSE_DOOR_THREADS);
        fuse_loop_cfg_set_clone_fd(config, 1);
        if (m->opt.ready)
            m->opt.ready();
        fuse_session_loop_mt(m->session, config);
        stopper_join(&stopper);
    }
    if (config)
        fuse_loop_cfg_destroy(config);
    return bad ? error_set(err, bad, "cannot serve: %s", strerror(-bad)) : 0;
}

static void tell(void *ctx, const char *line)
{
    (void)ctx;
    log_warning("%s", line);
}

int fuse_door_run(const struct fuse_door_options *opt, struct error *err)
{
    struct fuse_mount m = { .opt = *opt, .mounted = time(NULL) };
    if (door_open(&(struct door_options){ .store = opt->store, .tell = tell }, &m.door, err))
        return err->code;
    pthread_mutex_init(&m.lock, NULL);
    pthread_cond_init(&m.changed, NULL);
    nodes_init(&m);
    if (mount_session(&m, err) == 0) {
        serve(&m, err);
        fuse_session_unmount(m.session);
        fuse_session_destroy(m.session);
        file_abandon(&m);
    }
    nodes_fini(&m);
    listing_put(m.listing);
    pthread_cond_destroy(&m.changed);
    pthread_mutex_destroy(&m.lock);
    door_close(m.door);
    return err->code;
}
