/* cmd_bench.c - bench: how fast the store is here, by a scratch image that is made and removed.
 *
 * The server measures the store (tools/common/server_bench.c); the checksum is measured in this process, which has the same
 * processor, so that a daemon's guests do not wait for it. */
#include "base/clock.h"
#include "base/crc32c.h"
#include "tools/common/size.h"
#include "tools/parallax/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SIZE (768ull << 20) /* four times the caches of the map and of blocks, as they are by default */
#define SIZE_LEAST (16ull << 20)
#define SIZE_UNIT (128ull << 10)
#define SECONDS_MAX 60.0
#define CHECKSUM_NS 100000000u
#define BLOCK 4096u

static void take_measure(void *ctx, json_t *element) { json_array_append(ctx, element); }

/* Blocks a second, of a working set that the processor's first cache does not hold. */
static double measure_checksum(void)
{
    static unsigned char memory[256 * BLOCK];
    volatile uint32_t sum = 0;
    uint64_t blocks = 0, began = clock_monotonic_ns(), spent;
    for (size_t i = 0; i < sizeof memory; i++)
        memory[i] = (unsigned char)(i * 167 >> 3);
    do {
        for (unsigned i = 0; i < sizeof memory / BLOCK; i++)
            sum ^= crc32c(0, memory + i * BLOCK, BLOCK);
        blocks += sizeof memory / BLOCK;
        spent = clock_monotonic_ns() - began;
    } while (spent < CHECKSUM_NS);
    return (double)blocks * 1e9 / (double)spent;
}

static const char *describe(const char *name)
{
    static const struct {
        const char *name, *text;
    } texts[] = {
        { "write-128k-qd8", "sequential write, 128 KiB, depth 8" }, { "read-128k-qd8", "sequential read, 128 KiB, depth 8" },
        { "randread-4k-qd32", "random read, 4 KiB, depth 32" },     { "randread-4k-qd1", "random read, 4 KiB, depth 1" },
        { "randwrite-4k-qd32", "random write, 4 KiB, depth 32" },   { "randwrite-4k-qd1", "random write, 4 KiB, depth 1" },
        { "randwrite-4k-durable", "durable write, 4 KiB, depth 1" }, { "clone", "clone" }, { "snapshot", "snapshot" }, { "checksum", "checksum of 4 KiB" },
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (!strcmp(texts[i].name, name))
            return texts[i].text;
    return name;
}

static void print_table(const json_t *measures)
{
    static const char *const headings[] = { "measure", ">a second", ">bytes/s", ">median µs", ">99 % µs", ">longest µs" };
    static const char *const keys[] = { "p50-us", "p99-us", "max-us" };
    struct table *t = table_create(headings, 6);
    size_t i;
    json_t *m;
    json_array_foreach(measures, i, m)
    {
        char rate[32], bytes[SIZE_TEXT_MAX] = "", times[3][32] = { "", "", "" };
        snprintf(rate, sizeof rate, "%.0f", json_real_value(json_object_get(m, "per-second")));
        if (json_count(m, "bytes-per-second"))
            size_format(json_count(m, "bytes-per-second"), bytes);
        for (unsigned k = 0; k < 3; k++)
            if (json_object_get(m, keys[k]))
                snprintf(times[k], sizeof times[k], "%.1f", json_real_value(json_object_get(m, keys[k])));
        table_row(t, (const char *const[]){ describe(json_text(m, "name")), rate, bytes, times[0], times[1], times[2] });
    }
    table_print(t);
    table_destroy(t);
}

static int parse_options(const struct args *a, uint64_t *size, double *seconds)
{
    const char *size_text = option_value(a, "size"), *seconds_text = option_value(a, "seconds");
    char *end = NULL;
    *size = DEFAULT_SIZE;
    *seconds = 1;
    if (size_text && args_size(a, "size", size_text, size) != EXIT_DONE)
        return EXIT_USAGE;
    if (*size < SIZE_LEAST)
        return cli_usage(a, "size '%.64s' is too small: at least 16M", size_text);
    *size = *size / SIZE_UNIT * SIZE_UNIT;
    if (seconds_text)
        *seconds = strtod(seconds_text, &end);
    if (end && (end == seconds_text || *end || !(*seconds >= 0.1) || *seconds > SECONDS_MAX))
        return cli_usage(a, "--seconds is a number from 0.1 to 60, not '%.64s'", seconds_text);
    return EXIT_DONE;
}

static int run_bench(struct cli *cli, const struct args *a)
{
    uint64_t size;
    double seconds;
    char text[SIZE_TEXT_MAX];
    json_t *result = NULL, *measures = json_array();
    int status = parse_options(a, &size, &seconds);
    if (status == EXIT_DONE)
        status = cli_call(cli, json_pack("{s:s,s:I,s:I}", "command", "bench", "size", (json_int_t)size, "phase-ms", (json_int_t)(seconds * 1000)), take_measure,
                          measures, &result);
    if (status == EXIT_DONE) {
        double rate = measure_checksum();
        json_array_append_new(measures, json_pack("{s:s,s:f,s:I}", "name", "checksum", "per-second", rate, "bytes-per-second", (json_int_t)(rate * BLOCK)));
        json_object_set(result, "measures", measures);
        json_object_set_new(result, "store", json_string(cli->store_key));
        json_object_set_new(result, "daemon", cli->daemon_pid ? json_integer(cli->daemon_pid) : json_null());
        if (!cli_json(cli, result)) {
            print_table(measures);
            cli_say(cli, "by a scratch image of %s, which is removed again; what else runs on this machine counts too", size_format(size, text));
            if (json_count(result, "written") < json_count(result, "size"))
                cli_say(cli, "the device took only %s in the time given: reads and overwrites kept to that", json_size(result, "written", text));
        }
    }
    json_decref(measures);
    json_decref(result);
    return status;
}

const struct command bench_commands[] = {
    { .name = "bench", .arguments = "", .summary = "Measure how fast this store is here, with a scratch image that is removed again", .run = run_bench, .least = 0,
      .most = 0, .options = { { "size", 0, "SIZE", "of the scratch image (default: 768M); twice that must be free;\n                      the block cache, 128M by default, answers its share of the random reads" },
                              { "seconds", 0, "S", "for each measure (default: 1); in all about ten times that" } },
      .examples = "  parallax bench\n  parallax bench --size 2G --seconds 5 --json\n" },
    { 0 },
};
