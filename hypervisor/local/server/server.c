/* server.c - the embedded hypervisor's process: sockets, users, its beginning and its end.
 *
 * 1. One process serves a directory: it holds a lock on DIR/hypervisor.pid for its life.
 * 2. With --daemon it leaves its first process only when its sockets accept connections.
 * 3. It ends when no domain has had a process and nobody has used the xenstore for GRACE_MS. It does so holding
 *    DIR/start.lock, and only if nobody waits to be accepted, so that a starter never meets it half-way; whoever connected
 *    in the last moment sees a hang-up and tries again.
 * 4. Its death is a host crash: all domains are gone with it. */
#include "hypervisor/local/local_private.h"
#include "hypervisor/local/server/server_private.h"

#include "base/clock.h"
#include "base/notify.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define GRACE_MS 3000u
#define TIDY_MS 5000u
#define HELLO_PATIENCE_MS 10000u
#define LISTENER_REST_MS 500u
#define ACCEPTS_PER_TURN 16
#define PREDECESSOR_PATIENCE_MS 3000u

/* ---- users ---- */

bool server_trusts(const struct server *s, uid_t uid) { return uid == s->owner || uid == 0; }

int user_find(struct server *s, uid_t uid, struct user **out)
{
    *out = NULL;
    if (server_trusts(s, uid))
        return 0;
    list_for_each(n, &s->users) {
        struct user *u = container_of(n, struct user, link);
        if (u->uid == uid) {
            *out = u;
            return 0;
        }
    }
    struct user *u = calloc(1, sizeof *u);
    if (!u)
        return -ENOMEM;
    u->uid = uid;
    u->server = s;
    list_add_tail(&s->users, &u->link);
    *out = u;
    return 0;
}

int user_charge(struct server *s, struct user *u, unsigned descriptors)
{
    if (!u)
        return 0;
    if (u->descriptors + descriptors > s->descriptor_limit / USER_MAX_SHARE)
        return -EMFILE;
    u->descriptors += descriptors;
    return 0;
}

void user_discharge(struct server *s, struct user *u, unsigned descriptors)
{
    (void)s;
    if (!u)
        return;
    u->descriptors -= descriptors;
    if (u->descriptors)
        return;
    list_remove(&u->link);
    free(u);
}

/* ---- life ---- */

static bool in_use(const struct server *s) { return s->live || s->xsd.connections; }

static void reconsider(struct server *s)
{
    if (in_use(s) || s->stay)
        loop_timer_stop(s->loop, &s->grace);
    else
        loop_timer_start(s->loop, &s->grace, GRACE_MS);
}

void server_count_live(struct server *s, int change)
{
    s->live += (unsigned)change;
    reconsider(s);
}

static void xenstore_idle(struct xsd *x) { reconsider(container_of(x, struct server, xsd)); }

static bool someone_waits(const struct server *s)
{
    struct pollfd fds[2] = { { .fd = s->control.fd.fd, .events = POLLIN }, { .fd = s->xenstore.fd.fd, .events = POLLIN } };
    return poll(fds, 2, 0) != 0;
}

static void grace_over(struct loop_timer *t)
{
    struct server *s = container_of(t, struct server, grace);
    char path[LOCAL_DIR_BYTES + 16];
    snprintf(path, sizeof path, "%s/start.lock", s->dir);
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (in_use(s) || (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) < 0) || someone_waits(s)) {
        if (lock >= 0)
            close(lock);
        reconsider(s);
        return;
    }
    /* The lock is kept until the process has ended. */
    log_info("the last domain is gone, ending dir=%s", s->dir);
    loop_stop(s->loop);
}

/* Connections that never say who they are. */
static void tidy(struct loop_timer *t)
{
    struct server *s = container_of(t, struct server, tidy);
    uint64_t now = clock_monotonic_ms();
    list_for_each_safe(n, &s->controls) {
        struct control *c = container_of(n, struct control, link);
        if (!c->domain && now - c->since_ms > HELLO_PATIENCE_MS)
            control_close(c);
    }
    loop_timer_start(s->loop, t, TIDY_MS);
}

/* ---- listening ---- */

static void rest(struct listener *l)
{
    loop_fd_remove(l->server->loop, &l->fd);
    loop_timer_start(l->server->loop, &l->rest, LISTENER_REST_MS);
}

static void rested(struct loop_timer *t)
{
    struct listener *l = container_of(t, struct listener, rest);
    if (loop_fd_add(l->server->loop, &l->fd, EPOLLIN) < 0)
        loop_timer_start(l->server->loop, t, LISTENER_REST_MS);
}

static void listener_ready(struct loop_fd *w, uint32_t events)
{
    (void)events;
    struct listener *l = container_of(w, struct listener, fd);
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                rest(l);
            return;
        }
        struct ucred peer;
        socklen_t bytes = sizeof peer;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) < 0)
            close(fd);
        else
            l->accepted(l, fd, peer.pid, peer.uid);
    }
}

int listener_open(struct server *s, struct listener *l, int type, const char *name)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    if (snprintf(a.sun_path, sizeof a.sun_path, "%s/%s", s->dir, name) >= (int)sizeof a.sun_path)
        return -ENAMETOOLONG;
    l->server = s;
    l->rest.expired = rested;
    memcpy(l->path, a.sun_path, sizeof l->path);
    l->fd.ready = listener_ready;
    l->fd.fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd.fd < 0)
        return -errno;
    unlink(l->path);
    int err = 0;
    /* The directory's permissions say who gets this far; peer credentials say what each may be. */
    if (bind(l->fd.fd, (struct sockaddr *)&a, sizeof a) < 0 || chmod(l->path, 0666) < 0 || listen(l->fd.fd, 512) < 0)
        err = -errno;
    if (!err)
        err = loop_fd_add(s->loop, &l->fd, EPOLLIN);
    if (err) {
        close(l->fd.fd);
        l->fd.fd = -1;
    }
    return err;
}

void listener_close(struct listener *l)
{
    if (l->fd.fd < 0)
        return;
    loop_timer_stop(l->server->loop, &l->rest);
    loop_fd_remove(l->server->loop, &l->fd);
    unlink(l->path);
    close(l->fd.fd);
    l->fd.fd = -1;
}

static void toolstack_accepted(struct listener *l, int fd, pid_t pid, uid_t uid)
{
    struct server *s = l->server;
    if (server_trusts(s, uid)) {
        xsd_conn_open(&s->xsd, xsd_domain_find(&s->xsd, HV_DOMID_TOOLSTACK), fd, NULL, NULL);
        return;
    }
    log_limited(&s->refused, LOG_LEVEL_WARNING, "toolstack's xenstore refused pid=%ld uid=%ld", (long)pid, (long)uid);
    close(fd);
}

/* ---- beginning and end ---- */

static int server_init(struct server *s, const char *dir, bool stay, struct error *err)
{
    *s = (struct server){ .dir = dir, .owner = geteuid(), .stay = stay, .grace.expired = grace_over, .tidy.expired = tidy,
                          .control = { .accepted = control_accepted, .fd.fd = -1 }, .xenstore = { .accepted = toolstack_accepted, .fd.fd = -1 } };
    for (unsigned i = 0; i < DOMAIN_BUCKETS; i++)
        list_init(&s->domains[i]);
    list_init(&s->controls);
    list_init(&s->users);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    s->descriptor_limit = files.rlim_cur > 1u << 20 ? 1u << 20 : (unsigned)files.rlim_cur;
    struct domain *toolstack;
    int r = loop_create(&s->loop);
    if (!r)
        r = xsd_init(&s->xsd, s->loop);
    if (!r)
        r = domain_create(s, NULL, HV_TOOLSTACK, "toolstack", &toolstack);
    if (!r)
        r = listener_open(s, &s->xenstore, SOCK_STREAM, WIRE_XENSTORE_SOCKET);
    /* Last, because whoever can connect here takes the rest for granted. */
    if (!r)
        r = listener_open(s, &s->control, SOCK_SEQPACKET, WIRE_CONTROL_SOCKET);
    if (r)
        return error_set(err, r, "cannot serve %s: %s", dir, strerror(-r));
    s->xsd.idle = xenstore_idle;
    loop_timer_start(s->loop, &s->tidy, TIDY_MS);
    reconsider(s);
    return 0;
}

static void server_fini(struct server *s)
{
    listener_close(&s->control);
    listener_close(&s->xenstore);
    list_for_each_safe(n, &s->controls)
        control_close(container_of(n, struct control, link));
    for (unsigned i = 0; i < DOMAIN_BUCKETS; i++)
        list_for_each_safe(n, &s->domains[i])
            domain_destroy(container_of(n, struct domain, link));
    xsd_fini(&s->xsd);
    loop_timer_stop(s->loop, &s->grace);
    loop_timer_stop(s->loop, &s->tidy);
    loop_destroy(s->loop);
}

static int take_lock(const char *dir, int *out, struct error *err)
{
    char path[LOCAL_DIR_BYTES + 16];
    snprintf(path, sizeof path, "%s/hypervisor.pid", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        return error_set(err, -errno, "cannot open %s: %s", path, strerror(errno));
    uint64_t begin = clock_monotonic_ms();
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (clock_monotonic_ms() - begin > PREDECESSOR_PATIENCE_MS) {
            close(fd);
            return error_set(err, -EBUSY, "another hypervisor serves %s", dir);
        }
        usleep(10000);
    }
    *out = fd;
    return 0;
}

/* Sockets that a predecessor left when it was killed. */
static void remove_stale(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));)
        if (fnmatch("xenstore-*.sock", e->d_name, 0) == 0)
            unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
}

/* Returns in the grandchild only. */
static int leave_terminal(void)
{
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid)
        _exit(0);
    setsid();
    pid = fork();
    if (pid < 0)
        return -errno;
    if (pid)
        _exit(0);
    return chdir("/") < 0 ? -errno : 0;
}

static struct loop *signal_loop;

static void on_signal(int number)
{
    (void)number;
    loop_stop(signal_loop);
}

static void catch_signals(struct loop *l)
{
    signal_loop = l;
    struct sigaction end = { .sa_handler = on_signal }, ignore = { .sa_handler = SIG_IGN };
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGINT, &end, NULL);
    sigaction(SIGHUP, &ignore, NULL);
    sigaction(SIGPIPE, &ignore, NULL);
}

int hv_server_run(const char *dir, bool stay, bool daemonize, struct error *err)
{
    char own_dir[LOCAL_DIR_BYTES];
    int r = 0, lock = -1;
    if (dir)
        r = snprintf(own_dir, sizeof own_dir, "%s", dir) >= (int)sizeof own_dir ? -ENAMETOOLONG : 0;
    else
        r = local_directory(own_dir, err);
    if (!r && own_dir[0] != '/')
        return error_set(err, -EINVAL, "the directory must be an absolute path, not '%s'", own_dir);
    if (!r)
        r = local_make_directory(own_dir);
    if (r)
        return error_set(err, r, "cannot make the directory %s: %s", own_dir, strerror(-r));
    r = take_lock(own_dir, &lock, err);
    if (r)
        return r;
    remove_stale(own_dir);
    struct server *s = malloc(sizeof *s);
    if (!s)
        r = error_set(err, -ENOMEM, "out of memory");
    else
        r = server_init(s, own_dir, stay, err);
    if (!r && daemonize && (r = leave_terminal()))
        error_set(err, r, "cannot leave the terminal: %s", strerror(-r));
    if (!r) {
        if (ftruncate(lock, 0) < 0 || dprintf(lock, "%ld\n", (long)getpid()) < 0)
            log_warning("cannot write the process number dir=%s", own_dir);
        catch_signals(s->loop);
        log_info("embedded hypervisor ready dir=%s pid=%ld", own_dir, (long)getpid());
        if (!daemonize) /* else the service that is not ready yet may be our starter */
            notify_state("READY=1");
        loop_run(s->loop);
        server_fini(s);
        free(s);
    }
    close(lock);
    return r;
}
