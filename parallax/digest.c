/* digest.c - the digest of an image's content: a tree of SHA-256 over its shape, the same wherever and however the content was
 * written. What exactly is hashed: docs/digest.md.
 *
 * The image is frozen and in trees before the walk begins, so that the walk, on a thread of its own, needs no moment of its
 * own and holds nobody's freed blocks back. Subtrees whose digest is known are not read: a node belongs to the topmost
 * ancestor that has it, and what it holds there never changes, so (that version's id, level, first block) names its content
 * for as long as the store is open. The table of known digests has a fixed size; a newer one takes an older one's place. */
#include "parallax/parallax_private.h"

#include "base/endian.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KNOWN_DIGESTS 65536u
#define NODE_BYTES (RADIX_FANOUT * IMAGE_DIGEST_BYTES)

struct known_digest {
    uint64_t version, place; /* version 0: empty; place: first block << 3 | level */
    uint8_t digest[IMAGE_DIGEST_BYTES];
};

struct ancestor {
    uint64_t id, generation;
};

struct digest {
    struct owned owned;
    struct job job;
    struct store_op inner;  /* freezes the image */
    struct store_op *op;
    struct store *store;
    struct image *image;
    struct version *pinned;
    struct image_digest *out;
    struct radix_root root;
    uint64_t size_bytes;
    struct ancestor *ancestors; /* the version itself first */
    uint32_t ancestor_count;
    uint8_t *blocks;            /* one leaf's */
    uint8_t (*children)[NODE_BYTES]; /* by level, from 1 */
    uint8_t digest[IMAGE_DIGEST_BYTES];
    uint64_t hashed_blocks, bad_block;
    bool whole;                 /* what is known is not believed */
    int error;
};

static void digest_free(struct digest *d)
{
    list_remove(&d->owned.link);
    free(d->ancestors);
    free(d->blocks);
    free(d->children);
    free(d);
}

static void release(struct owned *o) { digest_free(container_of(o, struct digest, owned)); }

static void finish(struct digest *d)
{
    struct store_op *op = d->op;
    if (d->pinned)
        version_unpin(d->store, d->pinned);
    if (d->image)
        handle_close(d->image);
    digest_free(d);
    op->done(op);
}

/* ---- Hashing, on the walker's thread ---- */

static bool is_zero(const uint8_t *p, size_t n) { return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0; }

/* Zeroes have the digest zero, whatever their number. */
static void hash(const uint8_t *bytes, size_t n, uint8_t out[IMAGE_DIGEST_BYTES])
{
    if (is_zero(bytes, n))
        memset(out, 0, IMAGE_DIGEST_BYTES);
    else
        SHA256(bytes, n, out);
}

static struct known_digest *known_slot(const struct digest *d, const struct radix_entry *node, unsigned level, uint64_t first, uint64_t *version, uint64_t *place)
{
    uint32_t i = 0;
    while (i + 1 < d->ancestor_count && d->ancestors[i + 1].generation >= node->birth)
        i++;
    *version = d->ancestors[i].id;
    *place = first << 3 | level;
    return &d->store->known_digests[hash_u64(*version ^ hash_u64(*place)) % KNOWN_DIGESTS];
}

static int hash_leaf(struct digest *d, uint64_t first, struct radix_entry entries[RADIX_FANOUT])
{
    uint64_t end = (d->size_bytes + BDEV_BLOCK_SIZE - 1) / BDEV_BLOCK_SIZE, tail = d->size_bytes % BDEV_BLOCK_SIZE;
    int errors[RADIX_FANOUT];
    for (unsigned i = 0; i < RADIX_FANOUT; i++)
        if (first + i >= end)
            entries[i] = (struct radix_entry){ .kind = RADIX_NONE };
    if (blocks_read(d->store, entries, RADIX_FANOUT, d->blocks, errors)) {
        for (d->bad_block = first; !errors[d->bad_block - first];)
            d->bad_block++;
        return -EBADMSG;
    }
    for (unsigned i = 0; i < RADIX_FANOUT; i++) {
        uint8_t *block = d->blocks + (size_t)i * BDEV_BLOCK_SIZE;
        if (first + i + 1 == end && tail)
            memset(block + tail, 0, BDEV_BLOCK_SIZE - tail); /* a larger image may have written there what this one shares */
        hash(block, BDEV_BLOCK_SIZE, d->children[1] + i * IMAGE_DIGEST_BYTES);
        d->hashed_blocks += entries[i].kind == RADIX_DATA;
    }
    return 0;
}

static int lost(struct digest *d, uint64_t block)
{
    d->bad_block = block;
    return -EBADMSG;
}

static int hash_node(struct digest *d, const struct radix_entry *node, unsigned level, uint64_t first, uint8_t out[IMAGE_DIGEST_BYTES])
{
    struct radix_io io = { .device = d->store->blocks, .seed = d->store->super.seed };
    struct radix_entry entries[RADIX_FANOUT];
    uint64_t version, place, span = 1ull << 8 * (level - 1);
    struct known_digest *k = known_slot(d, node, level, first, &version, &place);
    bool cut_short = first + span * RADIX_FANOUT > d->size_bytes / BDEV_BLOCK_SIZE; /* by this image's end, not by its parents' */
    if (!cut_short && !d->whole && k->version == version && k->place == place) {
        memcpy(out, k->digest, IMAGE_DIGEST_BYTES);
        return 0;
    }
    if (op_stopped(d->op))
        return -ECANCELED;
    int err = radix_read_node(&io, node, level, entries);
    if (err)
        d->bad_block = first;
    else if (level == 1)
        err = hash_leaf(d, first, entries);
    else
        memset(d->children[level], 0, NODE_BYTES);
    for (unsigned i = 0; i < RADIX_FANOUT && !err && level > 1; i++)
        if (entries[i].kind == RADIX_NODE && (first + i * span) * BDEV_BLOCK_SIZE < d->size_bytes)
            err = hash_node(d, &entries[i], level - 1, first + i * span, d->children[level] + i * IMAGE_DIGEST_BYTES);
        else if (entries[i].kind == RADIX_LOST && (first + i * span) * BDEV_BLOCK_SIZE < d->size_bytes)
            err = lost(d, first + i * span);
    if (err)
        return err;
    hash(d->children[level], NODE_BYTES, out);
    if (!cut_short) {
        *k = (struct known_digest){ .version = version, .place = place };
        memcpy(k->digest, out, IMAGE_DIGEST_BYTES);
    }
    return 0;
}

/* The map may be higher than the size asks for, or lower; the digest's tree is as high as the size says. */
static int hash_map(struct digest *d, unsigned height, uint8_t top[IMAGE_DIGEST_BYTES])
{
    struct radix_io io = { .device = d->store->blocks, .seed = d->store->super.seed };
    struct radix_entry node = d->root.node, entries[RADIX_FANOUT];
    unsigned level = d->root.height;
    for (; level > height && node.kind == RADIX_NODE; level--) {
        int err = radix_read_node(&io, &node, level, entries);
        if (err)
            return err;
        node = entries[0];
    }
    int err = node.kind == RADIX_NODE ? hash_node(d, &node, level, 0, top) : node.kind == RADIX_LOST ? lost(d, 0) : 0;
    for (; !err && level && level < height; level++) {
        memset(d->children[1], 0, NODE_BYTES);
        memcpy(d->children[1], top, IMAGE_DIGEST_BYTES);
        hash(d->children[1], NODE_BYTES, top);
    }
    return err;
}

static void work(struct job *j)
{
    struct digest *d = container_of(j, struct digest, job);
    static const char title[16] = "PARALLAX DIGEST";
    uint8_t last[sizeof title + 8 + IMAGE_DIGEST_BYTES] = { 0 };
    unsigned height = radix_height_for((d->size_bytes + BDEV_BLOCK_SIZE - 1) / BDEV_BLOCK_SIZE);
    memcpy(last, title, sizeof title);
    put_le64(last + sizeof title, d->size_bytes);
    d->error = hash_map(d, height ? height : 1, last + sizeof title + 8);
    if (!d->error)
        SHA256(last, sizeof last, d->digest);
}

/* ---- On the loop ---- */

static void done(struct loop_task *t)
{
    struct digest *d = container_of(t, struct digest, job.done);
    if (d->error == -ECANCELED)
        error_set(&d->op->error, d->error, "stopped");
    else if (d->error)
        error_set(&d->op->error, -EIO, "'%s' cannot be read at offset %llu: %s", d->op->args.name, (unsigned long long)(d->bad_block * BDEV_BLOCK_SIZE),
                  d->error == -EBADMSG ? "damaged; 'parallax scrub' tells who uses it" : strerror(-d->error));
    else
        memcpy(d->out->sha256, d->digest, sizeof d->digest);
    d->out->hashed_bytes = d->hashed_blocks * BDEV_BLOCK_SIZE;
    finish(d);
}

static int prepare(struct digest *d)
{
    struct version *v = image_version(d->image);
    uint32_t n = 0;
    for (const struct version *a = v; a; a = a->parent)
        n++;
    if (!d->store->known_digests)
        d->store->known_digests = calloc(KNOWN_DIGESTS, sizeof *d->store->known_digests);
    d->ancestors = calloc(n, sizeof *d->ancestors);
    d->blocks = bdev_buffer_alloc(RADIX_FANOUT);
    d->children = calloc(RADIX_MAX_HEIGHT + 1, NODE_BYTES);
    if (!d->store->known_digests || !d->ancestors || !d->blocks || !d->children)
        return -ENOMEM;
    for (const struct version *a = v; a; a = a->parent)
        d->ancestors[d->ancestor_count++] = (struct ancestor){ a->id, a->generation };
    d->root = *lookup_root(v);
    d->size_bytes = v->size_bytes;
    d->pinned = version_pin(v);
    return 0;
}

static void in_trees(struct store_op *inner)
{
    struct digest *d = container_of(inner, struct digest, inner);
    int err = inner->error.code ? 0 : prepare(d);
    if (err)
        error_set(&inner->error, err, "no memory for the operation");
    if (inner->error.code) {
        d->op->error = inner->error;
        finish(d);
        return;
    }
    d->job.work = work;
    d->job.done.run = done;
    worker_submit(&d->store->walker, &d->job);
}

static void frozen(struct store_op *inner)
{
    struct digest *d = container_of(inner, struct digest, inner);
    d->image = inner->error.code ? NULL : inner->image;
    if (d->image)
        checkpoint_then(d->store, inner, in_trees);
    else
        in_trees(inner);
}

static void run_digest(struct store_op *op)
{
    struct digest *d = calloc(1, sizeof *d);
    if (!d) {
        error_set(&op->error, -ENOMEM, "no memory for the operation");
        op->done(op);
        return;
    }
    *d = (struct digest){ .op = op, .store = op->store, .out = op->args.digest, .whole = op->args.flag, .inner.done = frozen };
    owned_add(d->store, &d->owned, release);
    image_open_frozen(d->store, &d->inner, op->args.name);
}

static void begin(struct store *s, struct store_op *op, const char *target, bool whole, struct image_digest *out)
{
    op->args.name = target;
    op->args.flag = whole;
    op->args.digest = out;
    op_begin(s, op, run_digest);
}

void image_get_digest(struct store *s, struct store_op *op, const char *target, struct image_digest *out) { begin(s, op, target, false, out); }
void image_verify_digest(struct store *s, struct store_op *op, const char *target, struct image_digest *out) { begin(s, op, target, true, out); }
