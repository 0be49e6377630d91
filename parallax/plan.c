/* plan.c - what a checkpoint will do, as of its cut: the records of all that changed, the versions to merge, the versions to
 * delete. Everything is copied at the cut, so that later changes cannot reach it. */
#include "parallax/checkpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int checkpoint_add_change(struct checkpoint *c, const void *key, size_t key_length, const void *value, size_t value_length)
{
    if (c->change_count == c->change_capacity) {
        uint32_t capacity = c->change_capacity ? c->change_capacity * 2 : 64;
        struct catalog_change *grown = realloc(c->changes, capacity * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        c->changes = grown;
        c->change_capacity = capacity;
    }
    uint8_t *bytes = malloc(key_length + value_length);
    if (!bytes)
        return -ENOMEM;
    memcpy(bytes, key, key_length);
    if (value)
        memcpy(bytes + key_length, value, value_length);
    c->changes[c->change_count++] = (struct catalog_change){ bytes, key_length, value ? bytes + key_length : NULL, value_length };
    return 0;
}

void plan_end(struct checkpoint *c)
{
    for (uint32_t i = 0; i < c->change_count; i++)
        free((void *)(uintptr_t)c->changes[i].key);
    for (uint32_t i = 0; i < c->line_count; i++)
        free(c->lines[i].ranges);
    for (uint32_t i = 0; i < c->version_count; i++)
        free(c->versions[i].record);
    free(c->changes);
    free(c->versions);
    free(c->lines);
    free(c->deletions);
    free(c->order);
    c->changes = NULL;
    c->versions = NULL;
    c->lines = NULL;
    c->deletions = NULL;
    c->order = NULL;
    c->change_count = c->change_capacity = c->version_count = c->line_count = c->deletion_count = c->order_count = c->loss_count = 0;
    c->changing_nodes = c->changing_inner = 0;
}

/* A deletion of it may have begun in an earlier checkpoint. */
static bool is_being_deleted(const struct version *v) { return v && (v->plan_mark == PLAN_DELETED || v->delete_cursor); }

static struct version *only_child(const struct version *v) { return v->child_count ? container_of(v->children.next, struct version, sibling) : NULL; }

bool plan_may_delete(const struct version *v)
{
    return version_unwanted(v) && v->readers == 0 && v->pins == 0 && v->plan_mark == PLAN_NONE && !is_being_deleted(only_child(v)) && !is_being_deleted(v->parent);
}

/* Versions to delete now: no two of them neighbours, and no neighbour of one whose deletion has begun (V4). */
static int plan_deletions(struct checkpoint *c)
{
    struct tree *t = &c->store->tree;
    c->deletions = calloc(DELETIONS_MAX, sizeof *c->deletions);
    if (!c->deletions)
        return -ENOMEM;
    list_for_each(n, &t->orphans) {
        struct version *v = container_of(n, struct version, orphan_link);
        if (c->deletion_count == DELETIONS_MAX || !space_ready_to_delete(c->store))
            break;
        if (!plan_may_delete(v))
            continue;
        struct version *child = only_child(v);
        v->plan_mark = PLAN_DELETED;
        tree_dirty_version(t, v);
        if (child) {
            child->plan_mark = PLAN_NEIGHBOUR;
            tree_dirty_version(t, child);
        }
        if (v->parent)
            v->parent->plan_mark = PLAN_NEIGHBOUR;
        c->deletions[c->deletion_count++] = (struct deletion){ .v = v, .child = child, .parent = v->parent };
    }
    for (uint32_t i = 0; i < c->deletion_count; i++) {
        struct deletion *d = &c->deletions[i];
        d->v->plan_mark = PLAN_NONE;
        if (d->child)
            d->child->plan_mark = PLAN_NONE;
        if (d->parent)
            d->parent->plan_mark = PLAN_NONE;
    }
    return 0;
}

static int by_line_and_cut(const void *a, const void *b)
{
    const struct planned_version *x = a, *y = b;
    if (x->merge != y->merge)
        return x->merge ? -1 : 1;
    if (x->line != y->line)
        return x->line < y->line ? -1 : 1;
    if (x->cut != y->cut)
        return x->cut < y->cut ? -1 : 1;
    return x->v->generation < y->v->generation ? -1 : x->v->generation > y->v->generation; /* two snapshots of a group */
}

static int plan_versions(struct checkpoint *c)
{
    struct tree *t = &c->store->tree;
    uint8_t record[RECORD_MAX];
    uint32_t n = 0;
    list_for_each(i, &t->dirty_versions)
        n++;
    c->versions = calloc(n + 1, sizeof *c->versions);
    if (!c->versions)
        return -ENOMEM;
    struct list_node *node;
    while ((node = list_pop(&t->dirty_versions))) {
        struct version *v = container_of(node, struct version, dirty_link);
        struct planned_version *p = &c->versions[c->version_count++];
        v->dirty = false;
        t->dirty_version_count--;
        t->changing_nodes -= v->changing_nodes;
        t->changing_inner -= v->changing_inner;
        c->changing_nodes += v->changing_nodes;
        c->changing_inner += v->changing_inner;
        v->changing_nodes = v->changing_inner = 0;
        *p = (struct planned_version){ .v = v, .cut = v->cut, .blocks = version_blocks(v), .line = v->line->id,
                                       .merge = !list_empty(&v->line_link), .parent_id = v->parent ? v->parent->id : 0 };
        p->record_length = version_record_encode(v, record);
        if (!(p->record = malloc(p->record_length)))
            return -ENOMEM;
        memcpy(p->record, record, p->record_length);
    }
    qsort(c->versions, n, sizeof *c->versions, by_line_and_cut);
    return 0;
}

static int plan_lines(struct checkpoint *c)
{
    c->lines = calloc(c->version_count + 1, sizeof *c->lines);
    if (!c->lines)
        return -ENOMEM;
    for (uint32_t i = 0; i < c->version_count && c->versions[i].merge; i++) {
        struct line *l = c->versions[i].v->line;
        if (!c->line_count || c->lines[c->line_count - 1].line != l)
            c->lines[c->line_count++] = (struct planned_line){ .id = l->id, .line = l, .first = i, .base = l->base ? &l->base->root : &l->origin->root };
        c->lines[c->line_count - 1].count++;
    }
    return 0;
}

static int plan_images(struct checkpoint *c)
{
    struct tree *t = &c->store->tree;
    struct list_node *n;
    int err = 0;
    uint8_t key[9], record[RECORD_MAX];
    while (!err && (n = list_pop(&t->dirty_images))) {
        struct vdisk *d = container_of(n, struct vdisk, dirty_link);
        d->dirty = false;
        d->in_catalog = true;
        key_encode(key, KEY_IMAGE, d->id);
        err = checkpoint_add_change(c, key, sizeof key, record, image_record_encode(d, record));
    }
    while (!err && (n = list_pop(&t->gone))) {
        struct gone_key *g = container_of(n, struct gone_key, link);
        err = checkpoint_add_change(c, g->key, sizeof g->key, NULL, 0);
        free(g);
    }
    return err;
}

static void plan_state(struct checkpoint *c)
{
    struct store *s = c->store;
    c->state_record = (struct stored_state){ .checkpoint = s->checkpoint_number + 1, .epoch = s->journal.epoch, .tag = store_new_tag(), .tail = c->cut_seq + 1,
                                             .has_lost = s->has_lost, .next_version = s->tree.next_version, .next_image = s->tree.next_image, .next_line = s->tree.next_line };
    memcpy(c->state_record.uuid, s->super.uuid, 16);
}

int plan_make(struct checkpoint *c)
{
    int err = plan_deletions(c);
    if (!err)
        err = plan_versions(c);
    if (!err)
        err = plan_lines(c);
    if (!err)
        err = plan_images(c);
    plan_state(c);
    return err;
}

int plan_copy_ranges(struct checkpoint *c)
{
    for (uint32_t i = 0; i < c->line_count; i++) {
        struct planned_line *p = &c->lines[i];
        if (!(p->ranges = malloc((p->line->range_count + 1) * sizeof *p->ranges)))
            return -ENOMEM;
        for (uint32_t k = 0; k < p->line->range_count; k++)
            if (p->line->ranges[k].ticket < c->cut_ticket)
                p->ranges[p->range_count++] = p->line->ranges[k];
    }
    return 0;
}
