/* file_ops.c - random operations on a disk, by way of a file or of an NBD server, and on a plain file beside it, which must not
 * differ; in the manner of fsx.
 *
 *   file_ops [--ops N] [--seed N] [--grain BYTES] [--direct] [--reopen] FILE|NBD-URI PLAIN
 *   file_ops --ranges FILE
 *
 * The second form prints the ranges of data, OFFSET+LENGTH each. The first: the disk has its size and keeps it; PLAIN is made
 * as large, with the same content. Operations: write, read, punch a hole (trim), zero a range, fsync (flush), SEEK_DATA and
 * SEEK_HOLE (block status; nothing that reads as data may be called a hole), and with --reopen closing and opening again.
 * Offsets and lengths are multiples of the grain (512); --direct opens FILE with O_DIRECT. At the end everything is compared,
 * after opening anew. Prints the seed and what it did; exit 1 at the first difference, which is described. */
#include "tests/support/ops_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LENGTH_MAX (1u << 18)
#define COMPARE_BYTES (1u << 20)

enum operation { OP_WRITE, OP_READ, OP_PUNCH, OP_ZERO, OP_FSYNC, OP_SEEK, OP_REOPEN, OPS };
static const char *const names[OPS] = { "write", "read", "punch", "zero", "fsync", "seek", "reopen" };
static const unsigned weights[OPS] = { 40, 35, 8, 6, 2, 6, 1 };

static struct test {
    const char *plain;
    struct ops_disk disk;
    uint64_t ops, seed, grain, state, size_bytes, at, counts[OPS];
    bool reopen;
    int plain_fd;
    uint8_t *a, *b;
} t = { .ops = 100000, .grain = 512, .plain_fd = -1 };

static void fail(const char *what, uint64_t offset, uint64_t length)
{
    fprintf(stderr, "file_ops: operation %" PRIu64 ": %s at %" PRIu64 " length %" PRIu64 " (seed %" PRIu64 "): %s\n", t.at, what, offset, length, t.seed,
            errno ? strerror(errno) : "differs");
    exit(1);
}

/* xorshift64*. */
static uint64_t next_random(void)
{
    t.state ^= t.state >> 12;
    t.state ^= t.state << 25;
    t.state ^= t.state >> 27;
    return t.state * 0x2545f4914f6cdd1du;
}

/* What the disk answered, for the message. */
static void demand(int bad, const char *what, uint64_t offset, uint64_t length)
{
    errno = -bad;
    if (bad)
        fail(what, offset, length);
}

static void read_disk(uint8_t *buffer, uint64_t offset, uint64_t length) { demand(t.disk.ops->read(&t.disk, buffer, offset, length), "read", offset, length); }

static void read_plain(uint8_t *buffer, uint64_t offset, uint64_t length)
{
    errno = 0;
    if (pread(t.plain_fd, buffer, length, (off_t)offset) != (ssize_t)length)
        fail("read of the plain file", offset, length);
}

static void write_plain(const uint8_t *buffer, uint64_t offset, uint64_t length)
{
    errno = 0;
    if (pwrite(t.plain_fd, buffer, length, (off_t)offset) != (ssize_t)length)
        fail("write of the plain file", offset, length);
}

static void compare(uint64_t offset, uint64_t length)
{
    read_disk(t.a, offset, length);
    read_plain(t.b, offset, length);
    errno = 0;
    for (uint64_t i = 0; i < length; i++)
        if (t.a[i] != t.b[i])
            fail("compare", offset + i, length - i);
}

/* Mostly short ranges, and neighbours of earlier ones, because that is where requests meet. */
static void choose_range(uint64_t *offset, uint64_t *length)
{
    static uint64_t last;
    uint64_t units = t.size_bytes / t.grain, most = LENGTH_MAX / t.grain;
    if (next_random() % 4)
        most = most / 16 ? most / 16 : 1;
    uint64_t at = next_random() % 3 ? next_random() % units : last, count = 1 + next_random() % most;
    if (at >= units)
        at = 0;
    if (count > units - at)
        count = units - at;
    last = at + count;
    *offset = at * t.grain;
    *length = count * t.grain;
}

static void fill(uint64_t length)
{
    uint64_t x = next_random();
    for (uint64_t i = 0; i + 8 <= length; i += 8, x += 0x9e3779b97f4a7c15u)
        memcpy(t.a + i, &x, 8);
    for (uint64_t i = length & ~7ull; i < length; i++)
        t.a[i] = (uint8_t)(x >> (i & 7) * 8);
}

/* What is called a hole must read as zeroes. */
static void check_hole(uint64_t offset)
{
    uint64_t hole, end;
    demand(t.disk.ops->hole(&t.disk, offset, &hole, &end), "looking for a hole", offset, 0);
    errno = 0;
    if (hole < offset || end < hole || end > t.size_bytes || (end == hole && end < t.size_bytes))
        fail("a hole that is none", hole, end - hole);
    uint64_t length = end - hole < LENGTH_MAX ? end - hole : LENGTH_MAX;
    read_plain(t.b, hole, length);
    for (uint64_t i = 0; i < length; i++)
        if (t.b[i])
            fail("a hole where there is data", hole + i, length);
}

static void deallocate(bool punch, uint64_t offset, uint64_t length)
{
    uint64_t begin = offset, end = offset + length;
    if (punch && t.disk.punch_grain > 1) {
        begin = (begin + t.disk.punch_grain - 1) / t.disk.punch_grain * t.disk.punch_grain;
        end = end == t.size_bytes ? end : end / t.disk.punch_grain * t.disk.punch_grain;
    }
    demand((punch ? t.disk.ops->punch : t.disk.ops->zero)(&t.disk, offset, length, next_random()), punch ? "punch" : "zero", offset, length);
    if (begin >= end)
        return;
    memset(t.a, 0, end - begin);
    write_plain(t.a, begin, end - begin);
}

static void do_operation(enum operation op)
{
    uint64_t offset, length;
    choose_range(&offset, &length);
    switch (op) {
    case OP_WRITE:
        fill(length);
        demand(t.disk.ops->write(&t.disk, t.a, offset, length, next_random()), "write", offset, length);
        write_plain(t.a, offset, length);
        break;
    case OP_READ:
        compare(offset, length);
        break;
    case OP_PUNCH:
    case OP_ZERO:
        deallocate(op == OP_PUNCH, offset, length);
        break;
    case OP_FSYNC:
        demand(t.disk.ops->flush(&t.disk), "fsync", 0, 0);
        break;
    case OP_SEEK:
        check_hole(offset);
        break;
    default:
        if (!t.reopen)
            break;
        t.disk.ops->close(&t.disk);
        demand(t.disk.ops->open(&t.disk), "open", 0, 0);
    }
    t.counts[op]++;
}

static enum operation choose_operation(void)
{
    unsigned r = (unsigned)(next_random() % 98), op = 0;
    for (; op < OPS - 1 && r >= weights[op]; op++)
        r -= weights[op];
    return (enum operation)op;
}

static int print_ranges(const char *file)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    off_t data = 0, hole;
    if (fd < 0)
        return 1;
    for (const char *gap = ""; (data = lseek(fd, data, SEEK_DATA)) >= 0; data = hole, gap = " ") {
        hole = lseek(fd, data, SEEK_HOLE);
        if (hole <= data)
            return 1;
        printf("%s%lld+%lld", gap, (long long)data, (long long)(hole - data));
    }
    int err = errno;
    close(fd);
    printf("\n");
    return err != ENXIO;
}

static uint64_t piece_at(uint64_t at) { return t.size_bytes - at < COMPARE_BYTES ? t.size_bytes - at : COMPARE_BYTES; }

static void start(void)
{
    demand(t.disk.ops->open(&t.disk), "open", 0, 0);
    t.size_bytes = t.disk.size_bytes;
    t.plain_fd = open(t.plain, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (t.plain_fd < 0 || ftruncate(t.plain_fd, (off_t)t.size_bytes) < 0)
        fail("making the plain file", 0, 0);
    for (uint64_t at = 0; at < t.size_bytes; at += COMPARE_BYTES) {
        read_disk(t.a, at, piece_at(at));
        write_plain(t.a, at, piece_at(at));
    }
}

static void finish(void)
{
    t.disk.ops->close(&t.disk);
    demand(t.disk.ops->open(&t.disk), "open", 0, 0);
    for (uint64_t at = 0; at < t.size_bytes; at += COMPARE_BYTES)
        compare(at, piece_at(at));
    t.disk.ops->close(&t.disk);
    printf("%" PRIu64 " operations:", t.ops);
    for (unsigned i = 0; i < OPS; i++)
        printf(" %s=%" PRIu64, names[i], t.counts[i]);
    printf(", no difference\n");
}

int main(int argc, char **argv)
{
    static const struct option known[] = { { "ops", 1, NULL, 'o' }, { "seed", 1, NULL, 's' }, { "grain", 1, NULL, 'g' }, { "direct", 0, NULL, 'd' },
                                           { "reopen", 0, NULL, 'r' }, { 0 } };
    struct timespec now;
    if (argc == 3 && !strcmp(argv[1], "--ranges"))
        return print_ranges(argv[2]);
    clock_gettime(CLOCK_REALTIME, &now);
    t.seed = (uint64_t)now.tv_sec * 1000003u + (uint64_t)now.tv_nsec;
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 'd')
            t.disk.direct = true;
        else if (c == 'r')
            t.reopen = true;
        else if (c != '?')
            *(c == 'o' ? &t.ops : c == 's' ? &t.seed : &t.grain) = strtoull(optarg, NULL, 10);
        else
            argc = 0;
    }
    if (optind + 2 != argc || !t.grain || t.grain > LENGTH_MAX) {
        fprintf(stderr, "usage: file_ops [--ops N] [--seed N] [--grain BYTES] [--direct] [--reopen] FILE|NBD-URI PLAIN\n");
        return 2;
    }
    ops_disk_choose(&t.disk, argv[optind]);
    t.plain = argv[optind + 1];
    t.state = t.seed | 1;
    t.a = aligned_alloc(4096, COMPARE_BYTES);
    t.b = aligned_alloc(4096, COMPARE_BYTES);
    if (!t.a || !t.b)
        return 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("seed %" PRIu64 "\n", t.seed);
    start();
    for (t.at = 0; t.at < t.ops; t.at++)
        do_operation(choose_operation());
    finish();
    return 0;
}
