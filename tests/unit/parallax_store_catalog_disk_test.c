/* parallax_store_catalog_disk_test.c - what only the catalog on disk can go through: kills, damage, a full disk. */
#include <sys/mount.h>
#undef BDEV_BLOCK_SIZE /* the system header's is another one */

#include "base/list.h"
#include "base/log.h"
#include "parallax/store/catalog_bdb.h"
#include "tests/support/catalog_rig.h"
#include "tests/support/unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void opening_what_is_not_a_catalog_is_an_error(void)
{
    struct catalog *c;
    struct error err = ERROR_NONE;
    unit_empty_directory(catalog_directory);
    CU_ASSERT_EQUAL(catalog_bdb_open(catalog_directory, &c, &err), -ENOENT);
    CU_ASSERT(strstr(err.text, "catalog.db") != NULL);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL(catalog_bdb_open("/nonexistent/x", &c, &err), -ENOENT);
    catalog_close(catalog_rig_create());
    err = (struct error)ERROR_NONE;
    CU_ASSERT(catalog_bdb_create(catalog_directory, &c, &err) < 0);
    CU_ASSERT(err.text[0] != 0);
}

/* Before the first change nothing has been opened that is opened when it is needed. */
static void a_directory_that_is_renamed_keeps_its_files(void)
{
    struct catalog *moved, *other;
    struct catalog_oracle o = { 0 }, empty = { 0 };
    struct error err = ERROR_NONE;
    uint64_t random = unit_seed();
    char away[300];
    memset(o.value, 0xff, sizeof o.value);
    empty = o;
    snprintf(away, sizeof away, "%s.away", catalog_directory);
    catalog_close(catalog_rig_create());
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(catalog_directory, &moved, &err), 0);
    CU_ASSERT_EQUAL_FATAL(rename(catalog_directory, away), 0);
    CU_ASSERT_EQUAL_FATAL(mkdir(catalog_directory, 0700), 0);
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_create(catalog_directory, &other, &err), 0);
    catalog_close(other);
    for (int i = 0; i < 100; i++)
        CU_ASSERT_EQUAL(catalog_oracle_apply(moved, "o", &o, &random, 60), 0);
    catalog_close(moved);
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(away, &moved, &err), 0);
    CU_ASSERT(catalog_oracle_holds(moved, "o", &o));
    catalog_close(moved);
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(catalog_directory, &other, &err), 0);
    CU_ASSERT(catalog_oracle_holds(other, "o", &empty));
    catalog_close(other);
    unit_empty_directory(away);
    rmdir(away);
}

/* The child applies without end; each apply sets all keys to its revision and tells the parent once it has returned. */
static void apply_without_end(int out)
{
    struct catalog *c;
    uint64_t revision = 0;
    if (catalog_bdb_open(catalog_directory, &c, NULL) || catalog_scan(c, "o", &revision, NULL, NULL))
        _exit(9);
    static char padding[40000];
    for (;; revision++) {
        char key[20][8], value[32];
        struct catalog_change changes[21];
        sprintf(value, "%llu", (unsigned long long)revision + 1);
        for (int i = 0; i < 20; i++)
            changes[i] = (struct catalog_change){ key[i], (size_t)sprintf(key[i], "%d", i), value, strlen(value) };
        /* Enough to make checkpoints and log files come by. */
        changes[20] = (struct catalog_change){ "padding", 7, padding, sizeof padding };
        if (catalog_apply(c, "o", revision, changes, 21))
            _exit(8);
        uint64_t told = revision + 1;
        if (write(out, &told, sizeof told) != sizeof told)
            _exit(7);
    }
}

static int same_value(void *ctx, const void *key, size_t key_length, const void *value, size_t value_length)
{
    (void)key;
    char text[32] = "";
    if (key_length == 7)
        return 0;
    memcpy(text, value, value_length < 31 ? value_length : 31);
    return strtoull(text, NULL, 10) == *(uint64_t *)ctx ? 0 : -1;
}

static void acknowledged_changes_survive_kill_at_any_moment(void)
{
    uint64_t random = unit_seed(), acknowledged = 1;
    struct catalog *c = catalog_rig_create();
    CU_ASSERT_EQUAL(catalog_apply(c, "o", 0, NULL, 0), 0);
    catalog_close(c);
    for (int round = 0; round < 25; round++) {
        int pipe_fd[2];
        CU_ASSERT_EQUAL_FATAL(pipe(pipe_fd), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(pipe_fd[0]);
            apply_without_end(pipe_fd[1]);
        }
        close(pipe_fd[1]);
        if (round % 2) /* not before it has got to work */
            CU_ASSERT_EQUAL(read(pipe_fd[0], &acknowledged, sizeof acknowledged), sizeof acknowledged);
        usleep((useconds_t)(unit_random(&random) % 60000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        CU_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        for (uint64_t told; read(pipe_fd[0], &told, sizeof told) == sizeof told;)
            acknowledged = told;
        close(pipe_fd[0]);
        struct error err = ERROR_NONE;
        uint64_t revision = 0;
        CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(catalog_directory, &c, &err), 0);
        CU_ASSERT_EQUAL(catalog_scan(c, "o", &revision, NULL, NULL), 0);
        CU_ASSERT(revision >= acknowledged && revision <= acknowledged + 1);
        if (revision > 1)
            CU_ASSERT_EQUAL(catalog_scan(c, "o", NULL, same_value, &revision), 0);
        acknowledged = revision;
        catalog_close(c);
    }
    printf("# %llu changes acknowledged\n", (unsigned long long)acknowledged);
    CU_ASSERT(acknowledged >= 12);
}

/* Files of the catalog, in memory. */
struct saved_file {
    char name[256];
    char *data;
    size_t size;
};

static int compare_names(const void *a, const void *b) { return strcmp(((const struct saved_file *)a)->name, ((const struct saved_file *)b)->name); }

static unsigned save_files(struct saved_file *files, unsigned room)
{
    unsigned count = 0;
    DIR *d = opendir(catalog_directory);
    for (struct dirent *e; d && (e = readdir(d)) && count < room;) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, 0) < 0)
            continue;
        struct saved_file *f = &files[count++];
        snprintf(f->name, sizeof f->name, "%s", e->d_name);
        f->size = (size_t)st.st_size;
        f->data = malloc(f->size + 1);
        int fd = openat(dirfd(d), e->d_name, O_RDONLY);
        CU_ASSERT_EQUAL(read(fd, f->data, f->size), (ssize_t)f->size);
        close(fd);
    }
    closedir(d);
    /* A seed means the same on every file system. */
    qsort(files, count, sizeof *files, compare_names);
    return count;
}

static int open_file(const struct saved_file *f, int flags)
{
    int directory_fd = open(catalog_directory, O_RDONLY | O_DIRECTORY);
    int fd = openat(directory_fd, f->name, flags, 0600);
    close(directory_fd);
    return fd;
}

static void restore_file(const struct saved_file *f)
{
    int fd = open_file(f, O_WRONLY | O_CREAT | O_TRUNC);
    CU_ASSERT_EQUAL(write(fd, f->data, f->size), (ssize_t)f->size);
    close(fd);
}

/* Where something is: a file's tail of zeroes says nothing of how the rest is read. */
static size_t used_size(const struct saved_file *f)
{
    size_t used = f->size;
    while (used > 1 && !f->data[used - 1])
        used--;
    return used;
}

/* Flips bits, overwrites a stretch, or cuts the file short. Half the time among the first bytes or in the last tenth, for there are the
 * words that decide how the rest is read. */
static void damage_somewhere(const struct saved_file *f, uint64_t *random)
{
    char bytes[600];
    int fd = open_file(f, O_RDWR);
    size_t used = used_size(f), edge = used < 64 ? used : 64;
    uint64_t where = unit_random(random) % 4;
    off_t at = (off_t)(where == 0 ? unit_random(random) % edge : where == 1 ? used - 1 - unit_random(random) % (used / 10 + 1) : unit_random(random) % used);
    size_t n = 1;
    bytes[0] = (char)(f->data[at] ^ 1 << unit_random(random) % 8);
    switch (unit_random(random) % 4) {
    case 0:
        n = unit_random(random) % sizeof bytes;
        for (size_t i = 0; i < n; i++)
            bytes[i] = (char)unit_random(random);
        break;
    case 1:
        CU_ASSERT_EQUAL(ftruncate(fd, at), 0);
        break;
    default:
        break;
    }
    CU_ASSERT_EQUAL(pwrite(fd, bytes, n, at), (ssize_t)n);
    close(fd);
}

/* Random bytes in place of a whole page but the first, of a type that is verified by what the page says of itself. */
static void damage_to_a_first_page(const struct saved_file *f, uint64_t *random)
{
    static const char types[] = { 8, 9, 10, 14 };
    char page[512];
    if (strcmp(f->name, "catalog.db"))
        return;
    for (size_t i = 0; i < sizeof page; i++)
        page[i] = (char)unit_random(random);
    page[25] = types[unit_random(random) % sizeof types];
    int fd = open_file(f, O_RDWR);
    CU_ASSERT_EQUAL(pwrite(fd, page, sizeof page, (off_t)(1 + unit_random(random) % (f->size / sizeof page - 1)) * (off_t)sizeof page), (ssize_t)sizeof page);
    close(fd);
}

enum verdict { CORRECT, REFUSED, WRONG };

/* In a child, so that a crash is seen as one. */
static int judge(const struct catalog_oracle *o)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct catalog *c;
        struct error err = ERROR_NONE;
        alarm(20);
        log_set_level(0);
        int rc = catalog_bdb_open(catalog_directory, &c, &err);
        if (rc)
            _exit(err.text[0] ? REFUSED : WRONG);
        rc = catalog_oracle_compare(c, "o", o);
        bool right = rc == 0, refused = rc == -EBADMSG || rc == -EIO;
        if (right)
            refused = catalog_apply(c, "o", o->revision, NULL, 0) != 0;
        catalog_close(c);
        _exit(right ? CORRECT : refused ? REFUSED : WRONG);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* unclean: the log still holds what the database file has not. */
static void damage_many(bool unclean, unsigned rounds, void (*damage)(const struct saved_file *f, uint64_t *random), uint64_t *random)
{
    struct saved_file files[16];
    static struct catalog_oracle o;
    unsigned verdicts[3] = { 0 };
    memset(&o, 0xff, sizeof o);
    o.revision = 0;
    struct catalog *c = catalog_rig_create();
    for (int i = 0; i < 20; i++)
        CU_ASSERT_EQUAL(catalog_oracle_apply(c, "o", &o, random, 30), 0);
    unsigned count = 0;
    if (unclean)
        count = save_files(files, 16);
    catalog_close(c);
    if (!unclean)
        count = save_files(files, 16);
    for (unsigned i = 0; i < rounds; i++) {
        unit_empty_directory(catalog_directory);
        for (unsigned k = 0; k < count; k++)
            restore_file(&files[k]);
        const struct saved_file *f = &files[unit_random(random) % count];
        if (!f->size || strcmp(f->name, "reserve") == 0)
            continue;
        damage(f, random);
        int verdict = judge(&o);
        if (verdict >= 0 && verdict <= WRONG)
            verdicts[verdict]++;
        if (verdict < 0 || verdict >= WRONG)
            printf("# damage to %s in round %u: verdict %d\n", f->name, i, verdict);
        CU_ASSERT(verdict == CORRECT || verdict == REFUSED);
    }
    printf("# damaged %s: %u read right, %u refused, %u wrong\n", unclean ? "after a crash" : "when closed", verdicts[CORRECT], verdicts[REFUSED],
           verdicts[WRONG]);
    CU_ASSERT(verdicts[REFUSED] > 0);
    while (count)
        free(files[--count].data);
}

static void damaged_files_are_refused_or_read_right(void)
{
    uint64_t random = unit_seed();
    damage_many(false, 100, damage_somewhere, &random);
    damage_many(true, 100, damage_somewhere, &random);
}

static void a_page_like_a_first_one_is_refused(void)
{
    uint64_t random = unit_seed();
    damage_many(false, 200, damage_to_a_first_page, &random);
    damage_many(true, 100, damage_to_a_first_page, &random);
}

/* Takes what space there is. */
static void fill_up(int fd)
{
    static char block[1 << 16];
    while (write(fd, block, sizeof block) > 0)
        ;
    while (write(fd, block, 512) > 0)
        ;
}

/* A new catalog on a small file system, and a file there that can take all of it. */
static struct catalog *begin_on_small_disk(int *filler)
{
    struct catalog *c = NULL;
    struct error err = ERROR_NONE;
    char path[300];
    CU_ASSERT_EQUAL_FATAL(mount("none", catalog_directory, "tmpfs", 0, "size=48m"), 0);
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_create(catalog_directory, &c, &err), 0);
    snprintf(path, sizeof path, "%s/filler", catalog_directory);
    *filler = open(path, O_WRONLY | O_CREAT, 0600);
    return c;
}

static void end_small_disk(int filler)
{
    close(filler);
    CU_ASSERT_EQUAL(umount(catalog_directory), 0);
}

/* neighbour: another program takes the catalog's reserve as soon as it is released. */
static void fill_disk_under_catalog(bool neighbour)
{
    static struct catalog_oracle o;
    struct error err = ERROR_NONE;
    uint64_t random = unit_seed();
    int fd, rc = 0, done = 0;
    struct catalog *c = begin_on_small_disk(&fd);
    memset(&o, 0xff, sizeof o);
    o.revision = 0;
    fill_up(fd);
    for (; done < 400 && !rc; done++) {
        if (neighbour)
            fill_up(fd);
        rc = catalog_oracle_apply(c, "o", &o, &random, 60);
    }
    printf("# %d changes on a full disk, then %d\n", done, rc);
    CU_ASSERT_EQUAL(rc, neighbour ? -ENOSPC : 0);
    CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
    CU_ASSERT(catalog_oracle_holds(c, "o", &o));
    CU_ASSERT_EQUAL(catalog_oracle_apply(c, "o", &o, &random, 60), 0);
    catalog_close(c);
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(catalog_directory, &c, &err), 0);
    CU_ASSERT(catalog_oracle_holds(c, "o", &o));
    CU_ASSERT_EQUAL(catalog_oracle_apply(c, "o", &o, &random, 60), 0);
    CU_ASSERT(catalog_oracle_holds(c, "o", &o));
    catalog_close(c);
    end_small_disk(fd);
}

#define RECOVERIES 400u
#define LEFT_PAGES 4u
#define LOG_FILES 16u

/* Leaves a log whose last file is short, so that recovery needs space. */
static void leave_unclosed(unsigned changes, uint64_t *random)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        static struct catalog_oracle o;
        struct catalog *c;
        struct error err = ERROR_NONE;
        int rc = catalog_bdb_open(catalog_directory, &c, &err);
        memset(&o, 0xff, sizeof o);
        o.revision = 0;
        rc = rc ? rc : catalog_scan(c, "unclosed", &o.revision, NULL, NULL);
        for (unsigned i = 0; i < changes && !rc; i++)
            rc = catalog_oracle_apply(c, "unclosed", &o, random, 60);
        _exit(rc != 0);
    }
    waitpid(pid, &status, 0);
    CU_ASSERT_EQUAL(status, 0);
}

/* Between two openings a neighbour takes all that the catalog has not set aside. */
static void a_full_disk_does_not_stop_short_openings(void)
{
    static struct catalog_oracle o;
    struct error err = ERROR_NONE;
    uint64_t random = unit_seed();
    char reserve[300];
    int fd, rc = 0, done = 0;
    struct catalog *c = begin_on_small_disk(&fd);
    snprintf(reserve, sizeof reserve, "%s/reserve", catalog_directory);
    memset(&o, 0xff, sizeof o);
    o.revision = 0;
    for (; done < 40 && !rc; done++) {
        catalog_close(c);
        fill_up(fd);
        CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(catalog_directory, &c, &err), 0);
        rc = catalog_oracle_apply(c, "o", &o, &random, 60);
    }
    printf("# %d openings on a full disk, then %d\n", done, rc);
    CU_ASSERT_EQUAL(rc, 0);
    catalog_close(c);
    CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
    leave_unclosed(40, &random);
    unlink(reserve);
    fill_up(fd);
    rc = catalog_bdb_open(catalog_directory, &c, &err);
    printf("# without the reserve: %d %s\n", rc, err.text);
    CU_ASSERT_EQUAL(rc, -ENOSPC);
    CU_ASSERT_PTR_NULL(strstr(err.text, "damaged"));
    CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL_FATAL(catalog_bdb_open(catalog_directory, &c, &err), 0);
    CU_ASSERT(catalog_oracle_holds(c, "o", &o));
    catalog_close(c);
    end_small_disk(fd);
}

static int in_catalog_directory(const char *commands)
{
    char line[600];
    snprintf(line, sizeof line, "cd %s && %s", catalog_directory, commands);
    return system(line);
}

/* One that has lost changes, at a full disk: what opening took from the reserve is set aside again. */
static void an_opening_that_fails_keeps_the_reserve(void)
{
    struct error err = ERROR_NONE;
    uint64_t random = unit_seed();
    char reserve[300];
    struct stat st;
    int fd;
    struct catalog *c = begin_on_small_disk(&fd);
    catalog_close(c);
    leave_unclosed(40, &random);
    CU_ASSERT_EQUAL(in_catalog_directory("mkdir kept && cp -a log.* catalog.db kept"), 0);
    leave_unclosed(40, &random);
    CU_ASSERT_EQUAL(in_catalog_directory("rm log.* catalog.db && mv kept/* ."), 0);
    fill_up(fd);
    CU_ASSERT_EQUAL(catalog_bdb_open(catalog_directory, &c, &err), -EBADMSG);
    snprintf(reserve, sizeof reserve, "%s/reserve", catalog_directory);
    CU_ASSERT_EQUAL(stat(reserve, &st), 0);
    CU_ASSERT(st.st_blocks > 0);
    end_small_disk(fd);
}

static unsigned log_files(void)
{
    glob_t found;
    char pattern[300];
    snprintf(pattern, sizeof pattern, "%s/log.*", catalog_directory);
    unsigned n = glob(pattern, 0, NULL, &found) ? 0 : (unsigned)found.gl_pathc;
    globfree(&found);
    return n;
}

/* Each time some other pages are left, and the log ends somewhere else in one: whatever opening adds may be what finds no room. */
static void a_full_disk_does_not_stop_recovery(void)
{
    struct error err = ERROR_NONE;
    uint64_t random = unit_seed();
    int fd, rc = 0;
    struct catalog *c = begin_on_small_disk(&fd);
    catalog_close(c);
    for (unsigned i = 0; i < RECOVERIES && !rc; i++) {
        leave_unclosed(1 + i % 5, &random);
        fill_up(fd);
        CU_ASSERT_EQUAL(ftruncate(fd, lseek(fd, 0, SEEK_END) - (off_t)(i % LEFT_PAGES) * 4096), 0);
        if ((rc = catalog_bdb_open(catalog_directory, &c, &err)))
            printf("# recovery %u: %s\n", i, err.text);
        else
            catalog_close(c);
        CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
    }
    CU_ASSERT_EQUAL(rc, 0);
    CU_ASSERT(log_files() <= LOG_FILES);
    end_small_disk(fd);
}

static void a_full_disk_does_not_stop_the_catalog(void) { fill_disk_under_catalog(false); }
static void a_disk_without_any_room_is_an_error_and_loses_nothing(void) { fill_disk_under_catalog(true); }

int main(int argc, char **argv)
{
    bool root = geteuid() == 0;
    if (!root)
        printf("skip catalog: a_full_disk_does_not_stop_the_catalog - mounting a small file system needs root\n");
    return catalog_rig_main(argc, argv,
                            (struct unit_test[]){ UNIT(opening_what_is_not_a_catalog_is_an_error),
                                                  UNIT(a_directory_that_is_renamed_keeps_its_files),
                                                  UNIT(acknowledged_changes_survive_kill_at_any_moment),
                                                  UNIT(damaged_files_are_refused_or_read_right), UNIT(a_page_like_a_first_one_is_refused),
                                                  root ? (struct unit_test)UNIT(a_full_disk_does_not_stop_the_catalog) : (struct unit_test){ 0 },
                                                  UNIT(a_full_disk_does_not_stop_short_openings), UNIT(a_full_disk_does_not_stop_recovery),
                                                  UNIT(an_opening_that_fails_keeps_the_reserve),
                                                  UNIT(a_disk_without_any_room_is_an_error_and_loses_nothing), { 0 } });
}
