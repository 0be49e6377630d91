/* store.c - creating, opening and closing a store; what runs at the end of each turn. */
#include "base/clock.h"
#include "base/log.h"
#include "parallax/change.h"
#include "parallax/parallax_private.h"
#include "parallax/store_backing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/statvfs.h>

#define DEFAULT_MAP_CACHE (64ull << 20)
#define DEFAULT_BLOCK_CACHE (128ull << 20)
#define DEFAULT_INDEX_ENTRIES 524288u
#define DEFAULT_RECLAIM_BLOCKS 262144u /* V5 */
#define DEFAULT_LOCK_TIMEOUT_MS 10000u
#define JOURNAL_MIN 1024u
#define JOURNAL_MAX 32768u
#define FIRST_DATA_BLOCKS (16u << 20 >> BDEV_BLOCK_SHIFT)
#define STORE_MIN_BYTES (32ull << 20)
#define STORE_DEFAULT_MIN_BYTES (256ull << 20)
#define STORE_MAX_BLOCKS (1ull << 36)
#define LIMIT_ROOM_BLOCKS (1ull << 28)

const char *store_name(const struct store *s) { return s->backing.name; }

int store_fail(struct store *s, int error, const char *what)
{
    if (!s->failed) {
        s->failed = -EIO; /* for want of space too: room that is made now is of no use to it */
        log_error("store takes no more changes store=%s because of %s: %s", store_name(s), what, strerror(-error));
        loop_defer_last(s->loop, &s->pump); /* whoever waits, for a checkpoint's room say, must hear of it */
    }
    return -EIO;
}

/* ---- Creating ---- */

static uint64_t journal_blocks_for(uint64_t size_bytes)
{
    uint64_t j = size_bytes ? size_bytes / BDEV_BLOCK_SIZE / 32 : JOURNAL_MAX;
    return j < JOURNAL_MIN ? JOURNAL_MIN : j > JOURNAL_MAX ? JOURNAL_MAX : j;
}

static struct super layout(uint64_t size_bytes)
{
    struct super sb = { .timed = true, .journal_start = JOURNAL_START, .journal_blocks = journal_blocks_for(size_bytes), .limit_blocks = size_bytes / BDEV_BLOCK_SIZE };
    sb.zone_start = (sb.journal_start + sb.journal_blocks + 15) & ~15ull;
    return sb;
}

uint64_t store_initial_blocks(uint64_t size_bytes)
{
    struct super sb = layout(size_bytes);
    uint64_t n = sb.zone_start + ZONE_HEAD_BLOCKS + FIRST_DATA_BLOCKS;
    return sb.limit_blocks && n > sb.limit_blocks ? sb.limit_blocks : n;
}

/* One store has one: what the backing calls it. */
static int choose_uuid(const struct backing *b, uint8_t out[16])
{
    static const uint8_t none[16];
    memcpy(out, b->uuid, 16);
    return memcmp(out, none, 16) ? 0 : uuid_make(out);
}

int store_create_backing(struct backing *b, uint64_t size_bytes, struct error *err)
{
    struct super sb = layout(size_bytes);
    if (size_bytes && size_bytes < STORE_MIN_BYTES)
        return error_set(err, -EINVAL, "a store of %llu bytes is too small; at least 32 MiB are needed", (unsigned long long)size_bytes);
    uint8_t *block = bdev_buffer_alloc(1);
    if (!block || choose_uuid(b, sb.uuid) || getrandom(&sb.seed, sizeof sb.seed, 0) != sizeof sb.seed) {
        free(block);
        return error_set(err, -ENOMEM, "no memory to lay out the store");
    }
    super_encode(&sb, block);
    int rc = 0;
    for (unsigned i = 0; i < SUPER_COPIES && !rc; i++)
        rc = bdev_write(b->blocks, i, block, 1);
    free(block);
    struct stored_state st = { .epoch = 1, .tag = store_new_tag(), .tail = 1, .next_version = 1, .next_image = 1, .next_line = 1 };
    memcpy(st.uuid, sb.uuid, 16);
    if (!rc)
        rc = store_begin_time(b->blocks, &sb, &st);
    if (!rc)
        rc = bdev_flush(b->blocks);
    uint32_t length;
    uint8_t *value = state_encode(&st, &length);
    if (!rc)
        rc = value ? catalog_apply(b->catalog, "store", 0, &(struct catalog_change){ "S", 1, value, length }, 1) : -ENOMEM;
    free(value);
    return rc ? error_set(err, rc, "store '%s': cannot write its first blocks: %s", b->name, strerror(-rc)) : 0;
}

/* Without a size of its own a store leaves max(1 GiB, 5 %) of the file system free: too small a one would be no use. */
static int check_room(const char *url, struct error *err)
{
    char directory[512], device[512];
    struct statvfs fs;
    int rc = backing_parse_url(url, directory, device, err);
    if (rc || *device)
        return rc;
    while (statvfs(directory, &fs) && errno == ENOENT && strrchr(directory, '/') > directory)
        *strrchr(directory, '/') = 0;
    if (statvfs(directory, &fs))
        return 0; /* whatever is wrong, creating says it better */
    if (!fs.f_blocks)
        return error_set(err, -ENOTSUP, "the file system does not tell how much room it has: say --size");
    uint64_t total = (uint64_t)fs.f_blocks * fs.f_frsize, have = (uint64_t)fs.f_bavail * fs.f_frsize, keep = total / 20 > 1ull << 30 ? total / 20 : 1ull << 30;
    if (have >= keep + STORE_DEFAULT_MIN_BYTES)
        return 0;
    return error_set(err, -ENOSPC, "the file system has %llu MiB free; a store without --size leaves %llu MiB of it alone and needs %llu MiB more: say --size",
                     (unsigned long long)(have >> 20), (unsigned long long)(keep >> 20), (unsigned long long)(STORE_DEFAULT_MIN_BYTES >> 20));
}

_Static_assert(STORE_COMMAND_SIZE == BACKING_COMMAND_SIZE, "they are one");
int store_holder(const char *url, char command[static STORE_COMMAND_SIZE]) { return backing_holder(url, command); }

int store_create(const char *url, const struct store_create_options *opt, struct error *err)
{
    struct backing b;
    struct backing_create_options bo = { .size_bytes = opt->size_bytes, .force = opt->force };
    if (opt->size_bytes && opt->size_bytes < STORE_MIN_BYTES)
        return error_set(err, -EINVAL, "a store of %llu bytes is too small; at least 32 MiB are needed", (unsigned long long)opt->size_bytes);
    int rc = opt->size_bytes ? 0 : check_room(url, err);
    if (!rc)
        rc = backing_create(url, &bo, store_initial_blocks(opt->size_bytes), &b, err);
    if (rc)
        return rc;
    rc = store_create_backing(&b, opt->size_bytes, err);
    if (!rc)
        rc = backing_created(&b, err);
    b.close(&b);
    return rc;
}

int store_adopt(const char *url, const char *what, bool force, struct store_adopted *out, struct error *err)
{
    struct backing_adopted a;
    int rc = backing_adopt(url, what, force, age_check_adopted, &a, err);
    if (rc)
        return rc;
    *out = (struct store_adopted){ .device = "" };
    snprintf(out->previous_host, sizeof out->previous_host, "%s", a.previous_host);
    snprintf(out->device, sizeof out->device, "%s", a.device);
    return 0;
}

/* ---- Opening ---- */

struct loading {
    struct store *s;
    struct stored_state state;
    bool have_state;
    uint8_t *page_states;
    size_t page_states_length;
};

static int load_run(struct tree *t, const uint8_t *key, size_t key_length, const void *value, size_t length)
{
    uint8_t number[9] = { 0 };
    struct dead_run run;
    if (key_length != 17)
        return -EBADMSG;
    memcpy(number + 1, key + 9, 8);
    /* Runs (D) come before versions (V) in key order, so they are loaded by a second scan. */
    struct version *v = tree_version(t, key_id(key));
    int err = v ? dead_run_decode(value, length, key_id(number), &run) : -EBADMSG;
    if (err)
        return err;
    v->runs.next_number = run.number;
    if ((err = dead_runs_add(&v->runs, &run)))
        free(run.crcs);
    else
        v->runs.runs[v->runs.count - 1].dirty = false;
    return err;
}

static int load_item(void *ctx, const void *key, size_t key_length, const void *value, size_t length)
{
    struct loading *l = ctx;
    const uint8_t *k = key;
    if (key_length == 1 && *k == 'S') {
        l->have_state = true;
        return state_decode(value, length, &l->state);
    }
    if (key_length == 1 && *k == 'P') {
        l->page_states = malloc(length + 1);
        if (!l->page_states)
            return -ENOMEM;
        memcpy(l->page_states, value, length);
        l->page_states_length = length;
        return 0;
    }
    if (*k == KEY_RUN)
        return 0;
    if (key_length != 9)
        return -EBADMSG;
    if (*k == KEY_IMAGE)
        return image_record_load(&l->s->tree, key_id(k), value, length);
    if (*k == KEY_POOL)
        return pool_load(&l->s->pool, key_id(k), value, length);
    return *k == KEY_VERSION ? version_record_load(&l->s->tree, key_id(k), value, length) : -EBADMSG;
}

static int load_run_item(void *ctx, const void *key, size_t key_length, const void *value, size_t length)
{
    struct loading *l = ctx;
    return *(const uint8_t *)key == KEY_RUN ? load_run(&l->s->tree, key, key_length, value, length) : 0;
}

static int too_new(struct store *s, struct error *err)
{
    return error_set(err, -EPROTONOSUPPORT, "store '%s' was made by a newer version of Parallax; upgrade to open it", store_name(s));
}

static int load_catalog(struct loading *l, struct error *err)
{
    struct store *s = l->s;
    int rc = catalog_scan(s->backing.catalog, "store", &s->catalog_revision, load_item, l);
    if (!rc)
        rc = catalog_scan(s->backing.catalog, "store", &s->catalog_revision, load_run_item, l);
    if (!rc && (!l->have_state || memcmp(l->state.uuid, s->super.uuid, 16)))
        rc = -EBADMSG;
    if (!rc)
        rc = tree_link(&s->tree);
    if (rc == -EPROTONOSUPPORT)
        return too_new(s, err);
    if (rc == -EBADMSG)
        return error_set(err, rc, "store '%s': its catalog cannot be used: damaged, or not of these blocks; %s", store_name(s),
                         backing_catalog_copy(&s->backing) == BACKING_COPY_HELD ? "the device has a copy of it: 'init --adopt DEVICE' with a new directory takes over both"
                                                                                : "put the store's own catalog back, from a backup");
    if (rc)
        return error_set(err, rc, "store '%s': its catalog cannot be used: %s", store_name(s), strerror(-rc));
    s->tree.next_version = l->state.next_version > s->tree.next_version ? l->state.next_version : s->tree.next_version;
    s->tree.next_image = l->state.next_image > s->tree.next_image ? l->state.next_image : s->tree.next_image;
    s->tree.next_line = l->state.next_line > s->tree.next_line ? l->state.next_line : s->tree.next_line;
    s->checkpoint_number = l->state.checkpoint;
    s->has_lost = l->state.has_lost;
    return 0;
}

int super_read(struct bdev *blocks, struct super *out)
{
    uint8_t *block = bdev_buffer_alloc(1);
    int rc = -ENOMEM;
    for (unsigned i = 0; block && i < SUPER_COPIES && rc; i++) {
        rc = bdev_read(blocks, i, block, 1);
        if (!rc)
            rc = super_decode(block, out);
        if (rc == -EPROTONOSUPPORT)
            break;
    }
    free(block);
    return rc;
}

static int load_super(struct store *s, struct error *err)
{
    int rc = super_read(s->blocks, &s->super);
    if (rc == -EPROTONOSUPPORT)
        return too_new(s, err);
    if (rc)
        return error_set(err, rc, "store '%s': no superblock can be read: %s", store_name(s), rc == -EBADMSG ? "its blocks are damaged or not a store's" : strerror(-rc));
    return 0;
}

static void pump_run(struct loop_task *t)
{
    struct store *s = container_of(t, struct store, pump);
    ops_pump(s);
    write_pump(s);
    read_retry(s);
    journal_poll(s);
    space_grow_ahead(s);
}

static void init_lists(struct store *s)
{
    list_init(&s->write_queue);
    list_init(&s->parked);
    list_init(&s->late);
    list_init(&s->op_queue);
    list_init(&s->checkpoint_waiters);
    list_init(&s->owned);
    list_init(&s->counted);
    list_init(&s->dedups);
    list_init(&s->checks);
    s->pump.run = pump_run;
    tree_init(&s->tree);
}

static void apply_defaults(struct store_options *o)
{
    o->map_cache_bytes = o->map_cache_bytes ? o->map_cache_bytes : DEFAULT_MAP_CACHE;
    o->block_cache_bytes = o->block_cache_bytes ? o->block_cache_bytes : DEFAULT_BLOCK_CACHE;
    o->index_entries = o->index_entries ? o->index_entries : DEFAULT_INDEX_ENTRIES;
    /* A request of the largest size must fit. */
    o->index_entries = o->index_entries < 2 * BATCH_BLOCKS ? 2 * BATCH_BLOCKS : o->index_entries;
    o->reclaim_blocks = o->reclaim_blocks ? o->reclaim_blocks : DEFAULT_RECLAIM_BLOCKS;
    o->lock_timeout_ms = o->lock_timeout_ms ? o->lock_timeout_ms : DEFAULT_LOCK_TIMEOUT_MS;
}

static int init_parts(struct store *s)
{
    /* A limit may be raised: there is room for maps of sixteen times as much, and of 1 TiB at least. */
    uint64_t most = s->super.limit_blocks * 16 > LIMIT_ROOM_BLOCKS ? s->super.limit_blocks * 16 : LIMIT_ROOM_BLOCKS;
    most = !s->super.limit_blocks || most > STORE_MAX_BLOCKS ? STORE_MAX_BLOCKS : most;
    most = most > s->blocks->max_blocks ? s->blocks->max_blocks : most;
    int rc;
    if ((rc = space_init(&s->space, s->super.zone_start, most)) || (rc = pool_init(&s->pool, s->backing.catalog, most)) || (rc = index_init(&s->index[0], s->opt.index_entries))
        || (rc = index_init(&s->index[1], s->opt.index_entries)) || (rc = journal_init(s)) || (rc = read_init(s)) || (rc = partial_init(s))
        || (rc = checkpoint_init(s)) || (rc = grow_init(s)) || (rc = runs_init(s)) || (rc = trim_init(s)) || (rc = radix_cache_create(s->blocks, s->super.seed, s->opt.map_cache_bytes, &s->map))
        || (rc = cache_open(s->loop, s->blocks, s->opt.block_cache_bytes, &s->data)) || (rc = worker_start(&s->checkpointer, s->loop))
        || (rc = worker_start(&s->grower, s->loop)) || (rc = worker_start(&s->helper, s->loop)) || (rc = worker_start(&s->walker, s->loop)))
        return rc;
    return 0;
}

static void destroy(struct store *s)
{
    checkpoint_abandon(s); /* its thread must not wait for a loop that does not turn */
    worker_stop(&s->checkpointer);
    __atomic_store_n(&s->stop_walks, true, __ATOMIC_RELAXED);
    worker_stop(&s->grower);
    worker_stop(&s->helper);
    worker_stop(&s->walker);
    loop_cancel(s->loop, &s->pump);
    loop_cancel(s->loop, &s->late_task);
    if (s->data)
        bdev_close(s->data);
    if (s->map)
        radix_cache_destroy(s->map);
    checkpoint_fini(s);
    trim_fini(s);
    grow_fini(s);
    runs_fini(s);
    partial_fini(s);
    read_fini(s);
    journal_fini(s);
    index_fini(&s->index[0]);
    index_fini(&s->index[1]);
    space_fini(&s->space);
    pool_fini(&s->pool);
    tree_fini(&s->tree);
    free(s->known_digests);
    struct list_node *n;
    while ((n = list_pop(&s->owned))) {
        struct owned *o = container_of(n, struct owned, link);
        o->release(o);
    }
    free(s);
}

/* What is in use must be there: a file that was cut short is not grown again over its loss. */
static int check_length(struct store *s, struct error *err)
{
    uint64_t have = bdev_blocks(s->blocks), need = space_end_in_use(&s->space);
    return have >= need ? 0 : error_set(err, -EBADMSG, "store '%s' is damaged: its blocks end at byte %llu, but at least %llu bytes are in use; it was cut short, restore it from a copy",
                                        store_name(s), (unsigned long long)have * BDEV_BLOCK_SIZE, (unsigned long long)need * BDEV_BLOCK_SIZE);
}

static int open_loaded(struct store *s, struct error *err)
{
    struct loading l = { .s = s };
    int rc = load_super(s, err);
    if (rc)
        return rc;
    if ((rc = init_parts(s)))
        return error_set(err, rc, "store '%s': cannot get memory or threads: %s", store_name(s), strerror(-rc));
    rc = load_catalog(&l, err);
    if (!rc) {
        space_set_usable(&s->space, bdev_blocks(s->blocks));
        rc = space_load(&s->space, s->blocks, s->super.seed, l.page_states, l.page_states_length);
        if (!rc)
            rc = store_check_age(s, &l.state, err);
        space_opened(&s->space);
    }
    if (!rc)
        rc = check_length(s, err);
    if (!rc)
        rc = backing_settle(&s->backing, err);
    if (!rc)
        store_settle_age(s, &l.state);
    if (!rc)
        rc = trim_find_holes(s);
    if (!rc)
        rc = store_recover(s, &l.state, err);
    free(l.page_states);
    state_fini(&l.state);
    if (rc)
        return error_set(err, rc, "store '%s': cannot be opened: %s", store_name(s), strerror(-rc));
    space_restore_reserve(s);
    if (s->stats.recovered_records)
        checkpoint_request(s);
    ops_clean_up(s);
    trim_note(s);
    return 0;
}

int store_open_backing(struct backing *b, struct loop *loop, const struct store_options *opt, struct store **out, struct error *err)
{
    struct store *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, -ENOMEM, "no memory to open store '%s'", b->name);
    s->backing = *b;
    s->blocks = b->blocks;
    s->loop = loop;
    s->opt = *opt;
    apply_defaults(&s->opt);
    init_lists(s);
    int rc = open_loaded(s, err);
    if (rc) {
        destroy(s);
        return rc;
    }
    *out = s;
    return 0;
}

int store_open(const char *url, struct loop *loop, const struct store_options *opt, struct store **out, struct error *err)
{
    struct store_options o = *opt;
    struct backing b;
    apply_defaults(&o);
    struct backing_open_options bo = { .lock_timeout_ms = o.lock_timeout_ms, .command = o.command, .waiting = o.lock_waiting, .waiting_ctx = o.ctx, .lazy = o.lazy };
    int rc = backing_open(url, loop, &bo, &b, err);
    if (rc)
        return rc;
    rc = store_open_backing(&b, loop, &o, out, err);
    if (rc)
        b.close(&b);
    else
        (*out)->owns_backing = true;
    return rc;
}

/* ---- Closing ---- */

struct closing {
    struct store_op op;
    bool done;
};

/* Nothing has happened since the last checkpoint. */
static bool is_clean(const struct store *s)
{
    return s->journal.tail == s->journal.next_seq && !checkpoint_busy(s) && !checkpoint_deletions_wait(s) && list_empty(&s->op_queue);
}

static void closing_done(struct store_op *op) { container_of(op, struct closing, op)->done = true; }

int store_close(struct store *s)
{
    struct closing c = { .op = { .done = closing_done } };
    __atomic_store_n(&s->hurries_until_ms, s->opt.closing_ms ? clock_monotonic_ms() + s->opt.closing_ms : UINT64_MAX, __ATOMIC_RELAXED);
    if (is_clean(s))
        c.done = true;
    else
        store_checkpoint(s, &c.op);
    while (!c.done)
        loop_turn(s->loop, 1000);
    trim_closing(s);
    s->closing = true;
    while (s->growing || s->readying || trim_busy(s) || (checkpoint_busy(s) && !s->failed) || s->old_readers + s->new_readers || s->journal.flushing || !list_empty(&s->journal.in_flight))
        loop_turn(s->loop, 1000);
    struct backing b = s->backing;
    int rc = backing_removed(&b) ? -ESTALE : s->failed;
    bool owns = s->owns_backing;
    destroy(s);
    if (owns)
        b.close(&b);
    return rc;
}

void store_abandon(struct store *s)
{
    destroy(s);
}
