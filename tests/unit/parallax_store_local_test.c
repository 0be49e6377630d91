/* parallax_store_local_test.c - stores in directories: URLs, creation, refusals, the lock, devices. */
#include "base/clock.h"
#include "parallax/store/local_private.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char base[256], store[300];
static const struct backing_create_options defaults, forced = { .force = true };
static const struct backing_open_options quick = { .command = "unit test" };

static int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *fmt, ...)
{
    char command[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void fresh(void) { CU_ASSERT_EQUAL_FATAL(shell("rm -rf %s", store), 0); }

static void make_store(const char *url)
{
    struct backing b;
    struct error err = ERROR_NONE;
    CU_ASSERT_EQUAL_FATAL(backing_create(url, &defaults, 16, &b, &err), 0);
    CU_ASSERT_EQUAL_FATAL(backing_created(&b, &err), 0);
    b.close(&b);
}

/* Opening fails with that code and a line that holds both texts. */
static void expect_refusal(const char *url, int code, const char *text, const char *advice)
{
    struct backing b;
    struct error err = ERROR_NONE;
    int rc = backing_open(url, NULL, &quick, &b, &err);
    if (rc != code || !strstr(err.text, text) || !strstr(err.text, advice))
        printf("# %d %s\n", rc, err.text);
    CU_ASSERT_EQUAL(rc, code);
    CU_ASSERT_EQUAL(err.code, code);
    CU_ASSERT(strstr(err.text, text) && strstr(err.text, advice));
    if (!rc)
        b.close(&b);
}

static void expect_no_creation(const char *url, const struct backing_create_options *opt, int code, const char *text)
{
    struct backing b;
    struct error err = ERROR_NONE;
    int rc = backing_create(url, opt, 16, &b, &err);
    if (rc != code || !strstr(err.text, text))
        printf("# %d %s\n", rc, err.text);
    CU_ASSERT_EQUAL(rc, code);
    CU_ASSERT(strstr(err.text, text) != NULL);
    if (!rc)
        b.close(&b);
}

static void urls_have_one_canonical_form(void)
{
    char directory[512], device[512], want[600], url[2000];
    struct error err = ERROR_NONE;
    CU_ASSERT_EQUAL_FATAL(chdir(base), 0);
    snprintf(want, sizeof want, "%s/x/y", base);
    static const char *const same[] = { "x/y", "./x/y/", "file:x/y", "x//./y/.//", "" };
    for (unsigned i = 0; i < 5; i++) {
        snprintf(url, sizeof url, *same[i] ? "%s%.0s" : "%s../%s/x/y", same[i], strrchr(base, '/') + 1);
        CU_ASSERT_EQUAL(backing_parse_url(url, directory, device, &err), 0);
        CU_ASSERT_STRING_EQUAL(directory, want);
        CU_ASSERT_STRING_EQUAL(device, "");
    }
    CU_ASSERT_EQUAL(backing_parse_url("file:/?device=/dev/sdb", directory, device, &err), 0);
    CU_ASSERT_STRING_EQUAL(directory, "/");
    CU_ASSERT_STRING_EQUAL(device, "/dev/sdb");
    CU_ASSERT_EQUAL(backing_parse_url("/x?odd=name", directory, device, &err), 0);
    CU_ASSERT_STRING_EQUAL(directory, "/x?odd=name");
    static const struct { const char *url; int code; } bad[] = { { "", -EINVAL }, { "file:", -EINVAL }, { "rados:pool", -ENOTSUP },
        { "nbd:host", -EINVAL }, { "/x?device=/dev/sdb", -EINVAL }, { "file:/x?size=3", -EINVAL }, { "file:/x?device=sdb", -EINVAL }, { "file:/x?device=", -EINVAL }, { "a\nb", -EINVAL } };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (struct error)ERROR_NONE;
        CU_ASSERT_EQUAL(backing_parse_url(bad[i].url, directory, device, &err), bad[i].code);
        CU_ASSERT(err.text[0] && !strchr(err.text, '\n'));
    }
    memset(url, 'x', sizeof url - 1);
    url[sizeof url - 1] = 0;
    url[0] = '/';
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL(backing_parse_url(url, directory, device, &err), -ENAMETOOLONG);
    CU_ASSERT_EQUAL(chdir("/"), 0);
}

static void a_store_is_made_and_opened_again(void)
{
    struct backing b;
    struct error err = ERROR_NONE;
    struct stat st;
    struct loop *loop;
    char deep[400];
    unsigned char *buf = bdev_buffer_alloc(1);
    fresh();
    snprintf(deep, sizeof deep, "file:%s/deep/er", store);
    CU_ASSERT_EQUAL_FATAL(backing_create(deep, &defaults, 16, &b, &err), 0);
    CU_ASSERT_EQUAL(b.blocks->blocks, 16);
    memset(buf, 0x5a, BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_write(b.blocks, 3, buf, 1), 0);
    CU_ASSERT_EQUAL(catalog_apply(b.catalog, "o", 0, NULL, 0), 0);
    expect_refusal(deep, -ENOENT, "not a Parallax store", "parallax init");
    CU_ASSERT_EQUAL(backing_created(&b, &err), 0);
    CU_ASSERT_STRING_EQUAL(b.name, deep + 5);
    b.close(&b);
    CU_ASSERT_EQUAL(stat(deep + 5, &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 07777, 0700);
    CU_ASSERT_EQUAL_FATAL(loop_create(&loop), 0);
    CU_ASSERT_EQUAL_FATAL(backing_open(deep + 5, loop, &quick, &b, &err), 0);
    uint64_t revision = 0, free_bytes = 0, total_bytes = 0;
    memset(buf, 0, BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_read(b.blocks, 3, buf, 1), 0);
    CU_ASSERT_EQUAL(buf[77], 0x5a);
    CU_ASSERT_EQUAL(catalog_scan(b.catalog, "o", &revision, NULL, NULL), 0);
    CU_ASSERT_EQUAL(revision, 1);
    CU_ASSERT_EQUAL(backing_free_bytes(&b, &free_bytes, &total_bytes), 0);
    CU_ASSERT(free_bytes && free_bytes <= total_bytes);
    b.close(&b);
    loop_destroy(loop);
    free(buf);
}

static void what_is_not_a_usable_store_is_refused_with_advice(void)
{
    char path[400];
    struct error err = ERROR_NONE;
    fresh();
    expect_refusal(store, -ENOENT, "no such directory", "parallax init");
    CU_ASSERT_EQUAL(mkdir(store, 0700), 0);
    expect_refusal(store, -ENOENT, "not a Parallax store", "parallax init");
    CU_ASSERT_EQUAL(rmdir(store), 0);
    make_store(store);
    expect_no_creation(store, &defaults, -EEXIST, "already a Parallax store");
    expect_no_creation(store, &forced, -EEXIST, "already a Parallax store");
    snprintf(path, sizeof path, "file:%s?device=/dev/null", store);
    expect_refusal(path, -EINVAL, "in a file", "/dev/null");

    int fd = open(store, O_RDONLY | O_DIRECTORY);
    struct local_identity id, other;
    CU_ASSERT_EQUAL(local_identity_read(fd, store, &id, &err), 0);
    other = id;
    strcpy(other.machine_id, "0123456789abcdef0123456789abcdef");
    strcpy(other.host, "elsewhere");
    CU_ASSERT_EQUAL(local_identity_write(fd, store, LOCAL_STORE_FILE, &other, &err), 0);
    expect_refusal(store, -EXDEV, "belongs to host elsewhere", "init --adopt");
    CU_ASSERT_EQUAL(shell("printf 'parallax-store 2\\nanything\\n' > %s/STORE", store), 0);
    expect_refusal(store, -EPROTONOSUPPORT, "format 2", "newer program");
    static const char *const versions[] = { "-1", "+1", " 1", "0", "1x", "", "18446744073709551617" };
    for (unsigned i = 0; i < sizeof versions / sizeof *versions; i++) {
        CU_ASSERT_EQUAL(shell("printf 'parallax-store %s\nanything\n' > %s/STORE", versions[i], store), 0);
        expect_refusal(store, -EBADMSG, "version is no number", "backup");
    }
    CU_ASSERT_EQUAL(local_identity_write(fd, store, LOCAL_STORE_FILE, &id, &err), 0);
    CU_ASSERT_EQUAL(shell("printf '\\0anything' >> %s/STORE", store), 0);
    expect_refusal(store, -EBADMSG, "no text", "backup");
    static const char *const makers[] = { "mkfifo", "mkdir", "ln -s lock", "cp -a /dev/null" };
    for (unsigned i = 0; i < sizeof makers / sizeof *makers; i++) {
        CU_ASSERT_EQUAL(shell("rm %s/STORE && %s %s/STORE", store, makers[i], store), 0);
        expect_refusal(store, -EBADMSG, "no regular file", "backup");
        CU_ASSERT_EQUAL(shell("rm -rf %s/STORE && touch %s/STORE", store, store), 0);
    }
    CU_ASSERT_EQUAL(shell("rm %s/STORE", store), 0);
    expect_refusal(store, -ENOENT, "no file STORE", "init --adopt DEVICE");
    CU_ASSERT_EQUAL(shell("touch %s/STORE.new", store), 0);
    expect_refusal(store, -ENOENT, "not a Parallax store", "parallax init");
    CU_ASSERT_EQUAL(shell("rm %s/STORE.new", store), 0);
    for (size_t cut = 0;; cut += 7) {
        CU_ASSERT_EQUAL(local_identity_write(fd, store, LOCAL_STORE_FILE, &id, &err), 0);
        snprintf(path, sizeof path, "%s/STORE", store);
        struct stat st;
        CU_ASSERT_EQUAL(stat(path, &st), 0);
        if ((off_t)cut >= st.st_size)
            break;
        CU_ASSERT_EQUAL(truncate(path, (off_t)cut), 0);
        expect_refusal(store, -EBADMSG, "damaged", "backup");
    }
    CU_ASSERT_EQUAL(shell("rm -r %s/catalog && mkdir %s/catalog", store, store), 0);
    expect_refusal(store, -ENOENT, "no catalog", "catalog.db");
    close(fd);
}

static void a_damaged_identity_is_never_believed(void)
{
    char text[4096];
    struct error err = ERROR_NONE;
    struct local_identity id;
    fresh();
    make_store(store);
    int directory_fd = open(store, O_RDONLY | O_DIRECTORY), fd = openat(directory_fd, LOCAL_STORE_FILE, O_RDWR);
    CU_ASSERT_EQUAL(local_identity_read(directory_fd, store, &id, &err), 0);
    const char *sum;
    ssize_t n;
    unsigned i = 0;
    do { /* until the checksum begins with a zero, which is a number without it too */
        snprintf(id.host, sizeof id.host, "host%u", i++);
        CU_ASSERT_EQUAL(local_identity_write(directory_fd, store, LOCAL_STORE_FILE, &id, &err), 0);
        n = pread(fd, text, sizeof text - 1, 0);
        text[n] = 0;
        sum = strstr(text, "crc32c=");
    } while (sum && sum[7] != '0');
    CU_ASSERT_FATAL(sum != NULL);
    for (off_t at = 0; at < n; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            char c = (char)(text[at] ^ (1 << bit));
            CU_ASSERT_EQUAL(pwrite(fd, &c, 1, at), 1);
            int rc = local_identity_read(directory_fd, store, &id, &err);
            CU_ASSERT(rc == -EBADMSG || rc == -EPROTONOSUPPORT); /* a version digit that turned into a greater one */
            CU_ASSERT_EQUAL(pwrite(fd, text + at, 1, at), 1);
        }
    close(fd);
    close(directory_fd);
}

static void creation_spares_what_it_does_not_know(void)
{
    struct backing b;
    struct error err = ERROR_NONE;
    fresh();
    CU_ASSERT_EQUAL(shell("mkdir -p %s/mine && echo hello > %s/mine/file", store, store), 0);
    expect_no_creation(store, &defaults, -ENOTEMPTY, "'mine'");
    CU_ASSERT_EQUAL(shell("test \"$(ls -A %s)\" = mine", store), 0);
    CU_ASSERT_EQUAL_FATAL(backing_create(store, &forced, 16, &b, &err), 0);
    CU_ASSERT_EQUAL(backing_created(&b, &err), 0);
    b.close(&b);
    CU_ASSERT_EQUAL(shell("grep -q hello %s/mine/file", store), 0);
    fresh();
    CU_ASSERT_EQUAL(shell("mkdir -p %s/catalog && echo hello > %s/catalog/file", store, store), 0);
    expect_no_creation(store, &defaults, -ENOTEMPTY, "'catalog'");
    expect_no_creation(store, &forced, -ENOTEMPTY, "'catalog', a name that a store needs");
    CU_ASSERT_EQUAL(shell("grep -q hello %s/catalog/file", store), 0);
    fresh();
    CU_ASSERT_EQUAL(shell("echo hello > %s", store), 0);
    expect_no_creation(store, &defaults, -ENOTDIR, "Not a directory");
}

static void a_creation_that_is_given_up_or_fails_leaves_nothing(void)
{
    struct backing b;
    struct error err = ERROR_NONE;
    fresh();
    CU_ASSERT_EQUAL_FATAL(backing_create(store, &defaults, 16, &b, &err), 0);
    b.close(&b);
    CU_ASSERT_EQUAL(access(store, F_OK), -1);
    CU_ASSERT_EQUAL(backing_create(store, &defaults, (uint64_t)1 << 45, &b, &err), -ENOSPC);
    CU_ASSERT_EQUAL(access(store, F_OK), -1);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL(mkdir(store, 0755), 0);
    CU_ASSERT_EQUAL(backing_create(store, &defaults, (uint64_t)1 << 31, &b, &err), -ENOSPC);
    CU_ASSERT(strstr(err.text, "cannot allocate") != NULL);
    CU_ASSERT_EQUAL(shell("test \"$(ls -A %s)\" = lock", store), 0);
    make_store(store);
}

static void a_creation_that_was_killed_is_replaced(void)
{
    fresh();
    for (int round = 0; round < 12; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            struct backing b;
            if (backing_create(store, &defaults, 4096, &b, NULL) == 0)
                pause();
            _exit(1);
        }
        usleep((useconds_t)round * 1500);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        expect_refusal(store, -ENOENT, "not a Parallax store", "parallax init");
    }
    make_store(store);
}

/* A process that holds the store until it is killed. */
static pid_t hold_store(void)
{
    int ready[2];
    char c;
    CU_ASSERT_EQUAL_FATAL(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct backing b;
        struct backing_open_options opt = { .command = "holder of the test" };
        if (backing_open(store, NULL, &opt, &b, NULL) || write(ready[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ready[1]);
    CU_ASSERT_EQUAL(read(ready[0], &c, 1), 1);
    close(ready[0]);
    return pid;
}

struct notice {
    int calls, pid;
    char command[64];
};

static void note_waiting(void *ctx, int pid, const char *command)
{
    struct notice *n = ctx;
    n->calls++;
    n->pid = pid;
    snprintf(n->command, sizeof n->command, "%s", command);
    kill(pid, SIGKILL);
}

static void the_lock_keeps_others_out_and_ends_with_its_holder(void)
{
    struct backing b, second;
    struct error err = ERROR_NONE;
    struct notice notice = { 0 };
    char text[64];
    fresh();
    make_store(store);
    pid_t pid = hold_store();
    snprintf(text, sizeof text, "process %d (holder of the test)", (int)pid);
    expect_refusal(store, -EBUSY, text, "wait");
    struct backing_open_options patient = { .lock_timeout_ms = 300, .command = "x", .waiting = note_waiting, .waiting_ctx = &notice };
    uint64_t start = clock_monotonic_ms();
    CU_ASSERT_EQUAL(backing_open(store, NULL, &patient, &b, &err), -EBUSY);
    CU_ASSERT(clock_monotonic_ms() - start >= 300);
    CU_ASSERT_EQUAL(notice.calls, 0);
    /* The notice after a second kills the holder, and the wait ends at once. */
    patient.lock_timeout_ms = 8000;
    start = clock_monotonic_ms();
    CU_ASSERT_EQUAL_FATAL(backing_open(store, NULL, &patient, &b, &err), 0);
    uint64_t waited = clock_monotonic_ms() - start;
    CU_ASSERT(waited >= 1000 && waited < 5000);
    CU_ASSERT(notice.calls == 1 && notice.pid == pid);
    CU_ASSERT_STRING_EQUAL(notice.command, "holder of the test");
    waitpid(pid, NULL, 0);
    /* One process, two openings. */
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL(backing_open(store, NULL, &quick, &second, &err), -EBUSY);
    CU_ASSERT(strstr(err.text, "(x)") != NULL);
    b.close(&b);
    CU_ASSERT_EQUAL(backing_open(store, NULL, &quick, &b, &err), 0);
    b.close(&b);
}

static void text_in_the_lock_does_not_matter(void)
{
    static const char *const texts[] = { "", "x", "99999999999999999999 y", "-4 z", "12", "\\x01\\n\\n\\x02", "1 \\033[2Jboo" };
    fresh();
    make_store(store);
    for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct backing b;
        struct error err = ERROR_NONE;
        pid_t pid = hold_store();
        CU_ASSERT_EQUAL(shell("printf -- '%s' > %s/lock", texts[i], store), 0);
        expect_refusal(store, -EBUSY, "in use", "");
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        CU_ASSERT_EQUAL(backing_open(store, NULL, &quick, &b, &err), 0);
        b.close(&b);
    }
}

/* A loop device over a new file of that size; an empty string if there is none to be had. */
static char *attach_loop(char device[64], const char *file, unsigned mib)
{
    char command[900];
    snprintf(command, sizeof command, "truncate -s %uM %s/%s && losetup -f --show %s/%s 2>/dev/null", mib, base, file, base, file);
    FILE *p = popen(command, "r");
    if (!p || !fgets(device, 64, p))
        device[0] = 0;
    if (p)
        pclose(p);
    device[strcspn(device, "\n")] = 0;
    return device;
}

static void detach_loop(const char *device, const char *file) { shell("losetup -d %s && rm %s/%s", device, base, file); }

static char device_a[64], device_b[64];

static void a_device_in_use_by_others_is_refused(void)
{
    char url[700];
    struct error err = ERROR_NONE;
    fresh();
    snprintf(url, sizeof url, "file:%s?device=%s", store, device_a);
    CU_ASSERT_EQUAL(shell("mkfs.ext4 -q %s", device_a), 0);
    expect_no_creation(url, &defaults, -ENOTEMPTY, access("/lib/x86_64-linux-gnu/libblkid.so.1", F_OK) == 0 ? "ext4 data" : "data");
    CU_ASSERT_EQUAL(shell("mkdir %s/mnt && mount %s %s/mnt", base, device_a, base), 0);
    expect_no_creation(url, &forced, -EBUSY, "in use");
    CU_ASSERT_EQUAL(shell("umount %s/mnt && rmdir %s/mnt", base, base), 0);
    CU_ASSERT_EQUAL(access(store, F_OK), -1);
    CU_ASSERT_EQUAL(shell("dd if=/dev/zero of=%s bs=1M count=16 conv=fsync status=none", device_a), 0);
    CU_ASSERT_EQUAL(shell("printf x | dd of=%s bs=1 seek=60000 conv=fsync status=none", device_a), 0);
    expect_no_creation(url, &defaults, -ENOTEMPTY, "unknown");
    snprintf(url, sizeof url, "file:%s?device=%s/none", store, base);
    expect_no_creation(url, &forced, -ENOENT, "/none");
    snprintf(url, sizeof url, "file:%s?device=/dev/null", store);
    expect_no_creation(url, &forced, -ENOTBLK, "not a block device");
    CU_ASSERT_EQUAL(local_device_check(device_a, true, &err), 0);
}

static void a_store_on_a_device_knows_its_device(void)
{
    char url[700], other[700];
    struct backing b;
    struct error err = ERROR_NONE;
    unsigned char *buf = bdev_buffer_alloc(1);
    fresh();
    snprintf(url, sizeof url, "file:%s?device=%s", store, device_a);
    CU_ASSERT_EQUAL_FATAL(backing_create(url, &forced, 100, &b, &err), 0);
    CU_ASSERT_EQUAL(b.blocks->blocks, 100);
    CU_ASSERT_EQUAL(b.blocks->max_blocks, 13 * 256); /* the header, and a sixteenth for each region of the copy */
    CU_ASSERT_EQUAL(backing_catalog_copy(&b), BACKING_COPY_HELD);
    memset(buf, 3, BDEV_BLOCK_SIZE);
    CU_ASSERT_EQUAL(bdev_write(b.blocks, 99, buf, 1), 0);
    CU_ASSERT_EQUAL(backing_created(&b, &err), 0);
    CU_ASSERT_EQUAL(bdev_grow(b.blocks, 200), 0);
    CU_ASSERT_EQUAL(bdev_grow(b.blocks, 13 * 256 + 1), -ENOSPC);
    CU_ASSERT_EQUAL(local_device_check(device_a, true, NULL), -EBUSY);
    b.close(&b);
    CU_ASSERT_EQUAL(local_device_check(device_a, true, NULL), -EEXIST);
    CU_ASSERT_EQUAL_FATAL(backing_open(store, NULL, &quick, &b, &err), 0);
    CU_ASSERT_EQUAL(b.blocks->blocks, 200);
    CU_ASSERT_EQUAL(bdev_read(b.blocks, 99, buf, 1), 0);
    CU_ASSERT_EQUAL(buf[5], 3);
    CU_ASSERT_EQUAL(bdev_read(b.blocks, 199, buf, 1), 0);
    CU_ASSERT_EQUAL(buf[5], 0);
    CU_ASSERT_EQUAL(bdev_punch(b.blocks, 0, 16), 0);
    CU_ASSERT_EQUAL(bdev_flush(b.blocks), 0);
    b.close(&b);
    snprintf(other, sizeof other, "file:%s?device=%s", store, device_b);
    expect_refusal(other, -EINVAL, device_a, device_b);
    CU_ASSERT_EQUAL(shell("truncate -s 3328K %s/a && losetup -c %s", base, device_a), 0);
    expect_refusal(store, -ERANGE, device_a, "has become smaller");
    struct local_device_header odd;
    uint64_t room;
    CU_ASSERT_EQUAL(shell("truncate -s 4100M %s/a && losetup -c %s", base, device_a), 0);
    CU_ASSERT_EQUAL(local_device_lay_out(device_a, &odd, &room, &err), 0);
    CU_ASSERT(room == (4100ull - 17) << 20 && odd.copy_bytes == 8u << 20 && odd.start_bytes == 17u << 20);
    CU_ASSERT_EQUAL(shell("truncate -s 16M %s/a && losetup -c %s", base, device_a), 0);
    /* One copy of the header torn: the other serves. Both: not this store's device. */
    CU_ASSERT_EQUAL(shell("printf zzzz | dd of=%s bs=1 seek=40 conv=fsync,notrunc status=none", device_a), 0);
    CU_ASSERT_EQUAL(backing_open(url, NULL, &quick, &b, &err), 0);
    CU_ASSERT_EQUAL(b.blocks->blocks, 200);
    b.close(&b);
    CU_ASSERT_EQUAL(shell("printf zzzz | dd of=%s bs=1 seek=4136 conv=fsync,notrunc status=none", device_a), 0);
    expect_refusal(store, -ENODEV, device_a, "no Parallax header");
    CU_ASSERT_EQUAL(local_device_check(device_a, true, NULL), -EEXIST);
    struct local_device_header another = { .blocks = 300, .copy_bytes = 1u << 20, .start_bytes = 3u << 20, .uuid = "another-uuid" };
    CU_ASSERT_EQUAL(local_device_write(device_a, &another), 0);
    expect_refusal(store, -ENODEV, device_a, "belongs to store another-uuid");
    free(buf);
}

static void make_store_on_device(char url[700])
{
    struct error err = ERROR_NONE;
    fresh();
    CU_ASSERT_EQUAL(local_device_wipe(device_a, &err), 0);
    snprintf(url, 700, "file:%s?device=%s", store, device_a);
    make_store(url);
}

/* As they were made before devices carried a copy. */
static void a_device_without_a_copy_still_opens(void)
{
    char url[700];
    struct backing b;
    struct backing_adopted adopted;
    struct error err = ERROR_NONE;
    struct local_device_header h;
    struct local_identity id;
    make_store_on_device(url);
    int fd = open(store, O_RDONLY | O_DIRECTORY);
    CU_ASSERT_EQUAL_FATAL(local_identity_read(fd, store, &id, &err), 0);
    close(fd);
    h = (struct local_device_header){ .blocks = 16 };
    strcpy(h.uuid, id.uuid);
    CU_ASSERT_EQUAL(local_device_write(device_a, &h), 0);
    CU_ASSERT_EQUAL_FATAL(backing_open(store, NULL, &quick, &b, &err), 0);
    CU_ASSERT_EQUAL(b.blocks->blocks, 16);
    CU_ASSERT_EQUAL(b.blocks->max_blocks, 15 * 256);
    CU_ASSERT_EQUAL(backing_catalog_copy(&b), BACKING_COPY_MISSING);
    CU_ASSERT_EQUAL(bdev_grow(b.blocks, 32), 0);
    CU_ASSERT_EQUAL(catalog_apply(b.catalog, "store", 0, NULL, 0), 0);
    b.close(&b);
    CU_ASSERT_EQUAL(local_device_read(device_a, false, &h, &err), 0);
    CU_ASSERT(h.blocks == 32 && !h.copy_bytes && h.start_bytes == LOCAL_DEVICE_HEADER_BYTES);
    snprintf(url, sizeof url, "%s-2", store);
    CU_ASSERT_EQUAL(backing_adopt(url, device_a, false, NULL, &adopted, &err), -ENOTSUP);
    CU_ASSERT(strstr(err.text, "no copy") && access(url, F_OK) < 0);
}

static void an_adopted_device_is_refused_to_its_former_directory(void)
{
    char url[700], second[400];
    struct backing b;
    struct backing_adopted adopted;
    struct error err = ERROR_NONE;
    make_store_on_device(url);
    snprintf(second, sizeof second, "%s-second", store);
    CU_ASSERT_EQUAL_FATAL(backing_open(store, NULL, &quick, &b, &err), 0);
    CU_ASSERT_EQUAL(catalog_apply(b.catalog, "store", 0, &(struct catalog_change){ "k", 1, "value", 5 }, 1), 0);
    /* In use: refused, and nothing is left. */
    CU_ASSERT_EQUAL(backing_adopt(second, device_a, false, NULL, &adopted, &err), -EBUSY);
    CU_ASSERT(access(second, F_OK) < 0);
    b.close(&b);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL(backing_adopt(store, device_a, false, NULL, &adopted, &err), -EEXIST);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL(backing_adopt(store, store, false, NULL, &adopted, &err), -EALREADY);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL(backing_adopt(second, store, false, NULL, &adopted, &err), -EINVAL);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL_FATAL(backing_adopt(second, device_a, false, NULL, &adopted, &err), 0);
    CU_ASSERT_STRING_EQUAL(adopted.device, device_a);
    expect_refusal(store, -EXDEV, device_a, "adopted");
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL_FATAL(backing_open(second, NULL, &quick, &b, &err), 0);
    char value[8] = "";
    size_t length = 0;
    uint64_t revision = 0;
    CU_ASSERT(catalog_get(b.catalog, "store", "k", 1, value, sizeof value, &length) == 0 && length == 5 && !memcmp(value, "value", 5));
    CU_ASSERT_EQUAL(catalog_scan(b.catalog, "store", &revision, NULL, NULL), 0);
    CU_ASSERT_EQUAL(catalog_apply(b.catalog, "store", revision, &(struct catalog_change){ "k", 1, "other", 5 }, 1), 0);
    CU_ASSERT_EQUAL(backing_catalog_copy(&b), BACKING_COPY_HELD);
    b.close(&b);
    /* And back again, into a third directory. */
    fresh();
    CU_ASSERT_EQUAL_FATAL(backing_adopt(store, device_a, false, NULL, &adopted, &err), 0);
    expect_refusal(second, -EXDEV, device_a, "adopted");
    CU_ASSERT_EQUAL_FATAL(backing_open(store, NULL, &quick, &b, &err), 0);
    CU_ASSERT(catalog_get(b.catalog, "store", "k", 1, value, sizeof value, &length) == 0 && !memcmp(value, "other", 5));
    b.close(&b);
    /* Without a whole copy: refused, and the directory that has the catalog goes on. */
    CU_ASSERT_EQUAL(shell("rm -rf %s && dd if=/dev/zero of=%s bs=1M seek=1 count=2 conv=fsync status=none", second, device_a), 0);
    CU_ASSERT_EQUAL(backing_adopt(second, device_a, false, NULL, &adopted, &err), -EBADMSG);
    CU_ASSERT(strstr(err.text, "no whole copy") && access(second, F_OK) < 0);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL_FATAL(backing_open(store, NULL, &quick, &b, &err), 0);
    CU_ASSERT_EQUAL(backing_catalog_copy(&b), BACKING_COPY_MISSING);
    CU_ASSERT_EQUAL(backing_settle(&b, &err), 0);
    CU_ASSERT_EQUAL(backing_catalog_copy(&b), BACKING_COPY_HELD);
    b.close(&b);
}

/* The catalog of a directory that was put back from a copy of last week may name blocks that are somebody else's by now. */
static void a_catalog_older_than_the_devices_copy_is_refused(void)
{
    char url[700];
    struct backing b;
    struct backing_adopted adopted;
    struct error err = ERROR_NONE;
    make_store_on_device(url);
    CU_ASSERT_EQUAL(shell("rm -rf %s-old && cp -a %s %s-old", store, store, store), 0);
    CU_ASSERT_EQUAL_FATAL(backing_open(store, NULL, &quick, &b, &err), 0);
    for (uint64_t i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(catalog_apply(b.catalog, "store", i, &(struct catalog_change){ "k", 1, &i, sizeof i }, 1), 0);
    b.close(&b);
    CU_ASSERT_EQUAL(shell("rm -rf %s && mv %s-old %s", store, store, store), 0);
    expect_refusal(store, -ESTALE, "older than what", "init --adopt");
    CU_ASSERT_EQUAL(shell("rm -rf %s", store), 0);
    CU_ASSERT_EQUAL(backing_adopt(store, device_a, false, NULL, &adopted, &err), 0);
    CU_ASSERT_EQUAL_FATAL(backing_open(store, NULL, &quick, &b, &err), 0);
    uint64_t value = 0;
    size_t length;
    CU_ASSERT(catalog_get(b.catalog, "store", "k", 1, &value, sizeof value, &length) == 0 && value == 2);
    b.close(&b);
}

static void what_cannot_be_adopted_or_opened_is_told_with_the_device(void)
{
    char url[700], second[400];
    struct backing_adopted adopted;
    struct error err = ERROR_NONE;
    make_store_on_device(url);
    snprintf(second, sizeof second, "%s-second", store);
    CU_ASSERT_EQUAL(shell("blockdev --setro %s", device_a), 0);
    CU_ASSERT_EQUAL(backing_adopt(second, device_a, false, NULL, &adopted, &err), -EROFS);
    CU_ASSERT(strstr(err.text, device_a) && strstr(err.text, "read-only") && strstr(err.text, "--setrw") && access(second, F_OK) < 0);
    CU_ASSERT_EQUAL(shell("blockdev --setrw %s", device_a), 0);
    CU_ASSERT_EQUAL(shell("rm -r %s/catalog && touch %s/catalog", store, store), 0);
    expect_refusal(store, -ENOTDIR, "Not a directory", "init --adopt /dev/");
    CU_ASSERT_EQUAL(shell("rm %s/catalog", store), 0);
    expect_refusal(store, -ENOENT, "No such file", "init --adopt /dev/");
}

static const char *const device_tests[] = { "a_device_in_use_by_others_is_refused", "a_store_on_a_device_knows_its_device", "a_device_without_a_copy_still_opens",
                                            "an_adopted_device_is_refused_to_its_former_directory", "a_catalog_older_than_the_devices_copy_is_refused",
                                            "what_cannot_be_adopted_or_opened_is_told_with_the_device" };

int main(int argc, char **argv)
{
    snprintf(base, sizeof base, "%s/parallax-local-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
    if (!mkdtemp(base)) {
        perror(base);
        return 1;
    }
    snprintf(store, sizeof store, "%s/store", base);
    bool devices = geteuid() == 0 && *attach_loop(device_a, "a", 16) && *attach_loop(device_b, "b", 16);
    for (unsigned i = 0; !devices && i < sizeof device_tests / sizeof *device_tests; i++)
        printf("skip local: %s - needs root and loop devices\n", device_tests[i]);
    int rc = unit_main(argc, argv, "local",
                       (struct unit_test[]){ UNIT(urls_have_one_canonical_form), UNIT(a_store_is_made_and_opened_again),
                                             UNIT(what_is_not_a_usable_store_is_refused_with_advice), UNIT(a_damaged_identity_is_never_believed),
                                             UNIT(creation_spares_what_it_does_not_know), UNIT(a_creation_that_is_given_up_or_fails_leaves_nothing),
                                             UNIT(a_creation_that_was_killed_is_replaced), UNIT(the_lock_keeps_others_out_and_ends_with_its_holder),
                                             UNIT(text_in_the_lock_does_not_matter),
                                             devices ? (struct unit_test)UNIT(a_device_in_use_by_others_is_refused) : (struct unit_test){ 0 },
                                             UNIT(a_store_on_a_device_knows_its_device), UNIT(a_device_without_a_copy_still_opens),
                                             UNIT(an_adopted_device_is_refused_to_its_former_directory),
                                             UNIT(a_catalog_older_than_the_devices_copy_is_refused),
                                             UNIT(what_cannot_be_adopted_or_opened_is_told_with_the_device), { 0 } });
    if (*device_a)
        detach_loop(device_a, "a");
    if (*device_b)
        detach_loop(device_b, "b");
    shell("rm -rf %s", base);
    return rc;
}
