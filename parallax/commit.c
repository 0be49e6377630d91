/* commit.c - the checkpointer's thread, from the merge to the commit of the catalog (consistency.md, C1). */
#include "parallax/checkpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int write_versions(struct checkpoint *c)
{
    int err = 0;
    uint8_t key[17], value[DEAD_RUN_VALUE_MAX], number[9];
    for (uint32_t i = 0; i < c->version_count && !err; i++) {
        struct planned_version *p = &c->versions[i];
        struct version *v = p->v;
        if (p->deleted)
            continue;
        version_record_patch(p->record, &v->root, p->parent_id, v->delete_cursor);
        key_encode(key, KEY_VERSION, v->id);
        err = checkpoint_add_change(c, key, 9, p->record, p->record_length);
        for (uint32_t k = 0; k < v->runs.count && !err; k++) {
            struct dead_run *r = &v->runs.runs[k];
            if (!r->dirty)
                continue;
            key_encode(key, KEY_RUN, v->id);
            key_encode(number, KEY_RUN, r->number);
            memcpy(key + 9, number + 1, 8);
            err = checkpoint_add_change(c, key, 17, value, dead_run_encode(r, value));
            r->dirty = false;
        }
    }
    return err;
}

static int put_pool(void *ctx, const void *key, size_t key_length, const void *value, size_t length)
{
    return checkpoint_add_change(ctx, key, key_length, value, length);
}

static int write_space(struct checkpoint *c)
{
    struct store *s = c->store;
    uint8_t *buffer = bdev_buffer_alloc(1), *states = calloc(1, s->space.max_pages / 4 + 1);
    int err = buffer && states ? 0 : -ENOMEM;
    if (!err)
        err = space_write_pages(&s->space, s->blocks, s->super.seed, c->state_record.checkpoint, buffer);
    if (!err) {
        uint32_t length = space_encode_states(&s->space, states);
        err = length ? checkpoint_add_change(c, "P", 1, states, length) : 0;
    }
    free(buffer);
    free(states);
    return err;
}

static int write_state(struct checkpoint *c)
{
    uint32_t length;
    uint8_t *value = state_encode(&c->state_record, &length);
    int err = value ? checkpoint_add_change(c, "S", 1, value, length) : -ENOMEM;
    free(value);
    return err;
}

static int step(struct checkpoint *c, const char *what, int err)
{
    if (err && !c->error_what)
        c->error_what = what;
    return err;
}

void checkpoint_work(struct job *j)
{
    struct checkpoint *c = container_of(j, struct checkpoint, job);
    struct store *s = c->store;
    int err;
    c->error_what = NULL;
    c->budget = UINT64_MAX;
    (void)((err = step(c, "merging changes into trees", checkpoint_merge_lines(c)))
           || (err = step(c, "reclaiming space", checkpoint_reclaim(c)))
           || (err = step(c, "writing version records", write_versions(c)))
           || (err = step(c, "counting shared blocks", pool_write(&s->pool, put_pool, c)))
           || (err = step(c, "writing the space map", write_space(c)))
           || (err = step(c, "writing the state record", write_state(c)))
           || (err = step(c, "announcing the commit", store_announce(s, &c->state_record)))
           || (err = step(c, "flushing the device", bdev_flush(s->blocks)))
           || (err = step(c, "committing the catalog", catalog_apply(s->backing.catalog, "store", s->catalog_revision, c->changes, c->change_count))));
    if (!err) {
        store_end_acceptance(s, &c->state_record);
        store_committed(s, &c->state_record);
    }
    c->error = err;
}
