/* look.c - what the store says: names, sizes, times, and how much is mapped.
 *
 * 1. One thread at a time asks for a listing, the others that want one wait for its answer: many look-ups cost one `ls`.
 * 2. How much a file has mapped costs a walk of its map, so the answer is kept: for good where nothing can change, else until
 *    the time of the last write says that something was written, and at most a second while something is written elsewhere;
 *    what is written through this door is seen at once. */
#include "doors/fuse/fuse_private.h"

#include "base/clock.h"

#include <errno.h>
#include <sys/stat.h>

#define MAPPED_FRESH_MS 1000u  /* what is being written is looked at this often at most */
#define MAPPED_OLD_MS 60000u   /* times of last writes may go back when the storage domain recovers */
#define LAST_WRITE_GRAIN 2     /* seconds: times of last writes come in whole seconds, of another process's clock reading */

/* ---- The listing ---- */

static int ask_listing(struct fuse_mount *m, struct listing **out)
{
    struct listing *l = listing_create(clock_monotonic_ms());
    json_t *items = NULL, *element;
    size_t i;
    if (!l)
        return -ENOMEM;
    int err = door_ask(m->door, json_pack("{s:s}", "command", "ls"), true, &items, NULL, NULL);
    json_array_foreach(items, i, element)
        listing_add(l, element);
    json_decref(items);
    if (!err)
        err = listing_finish(l);
    if (err)
        listing_put(l);
    else
        *out = l;
    return err;
}

static bool is_fresh(const struct fuse_mount *m, uint64_t not_before_ms) { return m->listing && m->listing->taken_ms >= not_before_ms; }

int look_listing(struct fuse_mount *m, unsigned age_ms, struct listing **out)
{
    uint64_t now = clock_monotonic_ms(), not_before_ms = now > age_ms ? now - age_ms : 0;
    int err = 0;
    pthread_mutex_lock(&m->lock);
    while (!is_fresh(m, not_before_ms) && m->listing_wanted)
        pthread_cond_wait(&m->changed, &m->lock);
    if (!is_fresh(m, not_before_ms)) {
        struct listing *newer = NULL;
        m->listing_wanted = true;
        pthread_mutex_unlock(&m->lock);
        err = ask_listing(m, &newer);
        pthread_mutex_lock(&m->lock);
        m->listing_wanted = false;
        if (newer) {
            listing_put(m->listing);
            m->listing = newer;
        }
        pthread_cond_broadcast(&m->changed);
    }
    if (!err)
        *out = listing_get(m->listing);
    pthread_mutex_unlock(&m->lock);
    return err;
}

void look_forget(struct fuse_mount *m)
{
    pthread_mutex_lock(&m->lock);
    listing_put(m->listing);
    m->listing = NULL;
    pthread_mutex_unlock(&m->lock);
}

int look_name(struct fuse_mount *m, const struct node_name *name, struct node_facts *out)
{
    static const unsigned ages_ms[] = { (unsigned)(FUSE_DOOR_VALID_SECONDS * 1000), 0 };
    int err = -ENOENT;
    if (name->kind < NODE_FIXED)
        return name_look(NULL, name, out);
    for (unsigned i = 0; i < 2 && err == -ENOENT; i++) {
        struct listing *l;
        err = look_listing(m, ages_ms[i], &l);
        if (err)
            return err;
        err = name_look(l, name, out);
        listing_put(l);
    }
    return err;
}

/* ---- Attributes ---- */

static bool mapped_holds(const struct node *n, time_t last_write, uint64_t now_ms)
{
    if (!n->mapped.known)
        return false;
    if (kind_is_fixed_content(n->kind))
        return true;
    if (n->mapped.changes != __atomic_load_n(&n->changes, __ATOMIC_SEQ_CST))
        return false;
    return now_ms - n->mapped.at_ms < MAPPED_FRESH_MS ||
           (n->mapped.last_write == last_write && now_ms - n->mapped.at_ms < MAPPED_OLD_MS && time(NULL) - last_write > LAST_WRITE_GRAIN);
}

/* The bytes that a file has mapped; what was known last if it cannot be told now. */
static uint64_t mapped_bytes(struct fuse_mount *m, struct node *n, const struct node_facts *facts)
{
    uint64_t now_ms = clock_monotonic_ms();
    pthread_mutex_lock(&m->lock);
    bool holds = mapped_holds(n, facts->last_write, now_ms);
    uint64_t bytes = n->mapped.bytes;
    pthread_mutex_unlock(&m->lock);
    if (holds)
        return bytes;
    char target[TARGET_SIZE];
    json_t *items = NULL;
    uint64_t changes = __atomic_load_n(&n->changes, __ATOMIC_SEQ_CST); /* before the store is asked */
    name_target(&facts->name, target);
    if (door_ask(m->door, json_pack("{s:s,s:s}", "command", "du", "target", target), true, &items, NULL, NULL))
        return bytes;
    bytes = (uint64_t)json_integer_value(json_object_get(json_array_get(items, 0), "data"));
    json_decref(items);
    pthread_mutex_lock(&m->lock);
    n->mapped.known = true;
    n->mapped.bytes = bytes;
    n->mapped.at_ms = now_ms;
    n->mapped.changes = changes;
    n->mapped.last_write = facts->last_write;
    pthread_mutex_unlock(&m->lock);
    return bytes;
}

/* Who may read a directory may also go into it; its owner is not stopped by the mode, but by what the door allows. */
static mode_t directory_mode(mode_t mode) { return S_IFDIR | 0700 | mode | (mode & 0444) >> 2; }

void look_fill(const struct fuse_mount *m, const struct node *n, const struct node_facts *facts, struct stat *out)
{
    bool directory = kind_is_directory(n->kind);
    mode_t mode = kind_is_fixed_content(n->kind) ? m->opt.mode & ~0222u : m->opt.mode;
    time_t modified = facts->modified ? facts->modified : m->mounted;
    *out = (struct stat){ .st_ino = n->number, .st_mode = directory ? directory_mode(m->opt.mode) : S_IFREG | mode,
                          .st_nlink = directory ? 2 : 1, .st_uid = m->opt.uid, .st_gid = m->opt.gid, .st_blksize = 4096,
                          .st_size = directory ? 0 : (off_t)facts->size_bytes, .st_mtime = modified, .st_ctime = modified, .st_atime = modified };
}

bool look_open_attributes(struct fuse_mount *m, struct node *n, struct stat *out)
{
    struct node_facts facts = { 0 };
    bool open = false;
    pthread_mutex_lock(&m->lock);
    facts.modified = n->modified;
    for (unsigned i = 0; i < SLOTS && !open; i++)
        if (n->slots[i].state == SLOT_OPEN) {
            facts.size_bytes = door_disk_size(n->slots[i].disk);
            open = true;
        }
    uint64_t mapped = n->mapped.bytes;
    pthread_mutex_unlock(&m->lock);
    if (!open)
        return false;
    look_fill(m, n, &facts, out);
    out->st_blocks = (blkcnt_t)(mapped / 512);
    return true;
}

int look_attributes(struct fuse_mount *m, struct node *n, struct stat *out)
{
    struct node_name name;
    struct node_facts facts;
    node_get_name(m, n, &name);
    int err = look_name(m, &name, &facts);
    if (!err && facts.created != n->created)
        err = -ENOENT; /* a thing of the same name, made later */
    if (err)
        return err;
    look_fill(m, n, &facts, out);
    if (kind_is_directory(n->kind))
        return 0;
    out->st_blocks = (blkcnt_t)(mapped_bytes(m, n, &facts) / 512);
    pthread_mutex_lock(&m->lock);
    n->modified = facts.modified;
    pthread_mutex_unlock(&m->lock);
    return 0;
}
