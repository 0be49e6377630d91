/* fuse_names_test.c - the mounted store's names: what a listing holds, what a path means, and which numbers the kernel is given. */
#include "doors/fuse/fuse_private.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int add(struct listing *l, const char *text)
{
    json_t *element = json_loads(text, 0, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(element);
    listing_add(l, element);
    json_decref(element);
    return l->error;
}

/* "a" and "b" are images, a has the snapshots s1 and s2; "t" is a template with one. */
static struct listing *example(void)
{
    struct listing *l = listing_create(1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(l);
    add(l, "{\"name\":\"b\",\"size\":1024,\"template\":false,\"created\":\"2026-01-01T00:00:00Z\",\"last-write\":null}");
    add(l, "{\"name\":\"a\",\"size\":512,\"template\":false,\"created\":\"2026-01-01T00:00:10Z\",\"last-write\":\"2026-01-02T00:00:00Z\"}");
    add(l, "{\"of\":\"a\",\"name\":\"s1\",\"size\":512,\"created\":\"2026-01-01T00:01:00Z\"}");
    add(l, "{\"of\":\"a\",\"name\":\"s2\",\"size\":256,\"created\":\"2026-01-01T00:02:00Z\"}");
    add(l, "{\"name\":\"t\",\"size\":2048,\"template\":true,\"created\":\"2026-01-01T00:00:20Z\",\"last-write\":null}");
    add(l, "{\"of\":\"t\",\"name\":\"s\",\"size\":2048,\"created\":\"2026-01-01T00:03:00Z\"}");
    CU_ASSERT_EQUAL_FATAL(listing_finish(l), 0);
    return l;
}

static struct node_name named(enum node_kind kind, const char *image, const char *snapshot)
{
    struct node_name n = { .kind = kind };
    snprintf(n.image, sizeof n.image, "%s", image);
    snprintf(n.snapshot, sizeof n.snapshot, "%s", snapshot);
    return n;
}

static int look(const struct listing *l, enum node_kind kind, const char *image, const char *snapshot, struct node_facts *out)
{
    struct node_name n = named(kind, image, snapshot);
    return name_look(l, &n, out);
}

static void a_listing_tells_images_templates_and_snapshots_apart(void)
{
    struct listing *l = example();
    struct node_facts f;
    CU_ASSERT_EQUAL(look(l, NODE_IMAGE, "a", "", &f), 0);
    CU_ASSERT_EQUAL(f.size_bytes, 512);
    CU_ASSERT_EQUAL(f.created, 1767225610);
    CU_ASSERT_EQUAL(f.modified, 1767312000);
    CU_ASSERT_EQUAL(look(l, NODE_IMAGE, "t", "", &f), -ENOENT);
    CU_ASSERT_EQUAL(look(l, NODE_TEMPLATE, "t", "", &f), 0);
    CU_ASSERT_EQUAL(f.modified, f.created);
    CU_ASSERT_EQUAL(look(l, NODE_TEMPLATE, "a", "", &f), -ENOENT);
    CU_ASSERT_EQUAL(look(l, NODE_SNAPSHOT, "a", "s2", &f), 0);
    CU_ASSERT_EQUAL(f.size_bytes, 256);
    CU_ASSERT_EQUAL(look(l, NODE_SNAPSHOT, "t", "s2", &f), -ENOENT);
    CU_ASSERT_EQUAL(look(l, NODE_OF_IMAGE, "t", "", &f), 0);
    CU_ASSERT_EQUAL(look(l, NODE_OF_IMAGE, "b", "", &f), -ENOENT); /* it has none */
    CU_ASSERT_EQUAL(look(l, NODE_IMAGE, "c", "", &f), -ENOENT);
    listing_put(l);
}

static void names_that_are_no_names_are_not_believed(void)
{
    char longest[LISTING_NAME_SIZE + 64];
    static const char *const wrong[] = {
        "{\"name\":\"..\",\"size\":512}",         "{\"name\":\"a/b\",\"size\":512}",          "{\"name\":\"\",\"size\":512}",
        "{\"size\":512}",                         "{\"name\":\"a\",\"size\":-1}",             "{\"name\":\"a\",\"size\":\"512\"}",
        "{\"of\":\"x\",\"name\":\"s\",\"size\":512}", "{\"of\":\"a\",\"name\":\"../s\",\"size\":512}", "{\"of\":\"a\",\"size\":512}",
    };
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct listing *l = listing_create(1);
        add(l, "{\"name\":\"a\",\"size\":512}");
        CU_ASSERT_EQUAL(add(l, wrong[i]), -EPROTO);
        CU_ASSERT_EQUAL(add(l, "{\"name\":\"z\",\"size\":512}"), -EPROTO); /* and it stays so */
        CU_ASSERT_EQUAL(listing_finish(l), -EPROTO);
        listing_put(l);
    }
    struct listing *l = listing_create(1);
    snprintf(longest, sizeof longest, "{\"name\":\"%0*d\",\"size\":512}", (int)LISTING_NAME_SIZE, 0);
    CU_ASSERT_EQUAL(add(l, longest), -EPROTO);
    listing_put(l);
}

static void many_images_are_found(void)
{
    struct listing *l = listing_create(1);
    char text[128], name[16];
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(text, sizeof text, "{\"name\":\"vm%u\",\"size\":%u,\"template\":false}", i, 512 * (i + 1));
        add(l, text);
    }
    CU_ASSERT_EQUAL(listing_finish(l), 0);
    for (unsigned i = 0; i < 5000; i++) {
        snprintf(name, sizeof name, "vm%u", i);
        const struct listing_image *found = listing_find(l, name);
        CU_ASSERT_PTR_NOT_NULL_FATAL(found);
        CU_ASSERT_EQUAL(found->size_bytes, 512 * (i + 1));
    }
    CU_ASSERT_PTR_NULL(listing_find(l, "vm5000"));
    listing_put(l);
}

static void a_path_is_walked_name_by_name(void)
{
    struct node_name root = { .kind = NODE_ROOT }, at, below;
    char target[TARGET_SIZE], longest[LISTING_NAME_SIZE + 1];
    CU_ASSERT_TRUE(name_child(&root, "snapshots", &at));
    CU_ASSERT_TRUE(name_child(&at, "a", &below));
    CU_ASSERT_TRUE(name_child(&below, "s1", &at));
    name_target(&at, target);
    CU_ASSERT_STRING_EQUAL(target, "a@s1");
    CU_ASSERT_EQUAL(at.kind, NODE_SNAPSHOT);
    CU_ASSERT_FALSE(name_child(&at, "x", &below)); /* a file has no names in it */
    CU_ASSERT_FALSE(name_child(&root, "image", &at));
    CU_ASSERT_TRUE(name_child(&root, "images", &at));
    memset(longest, 'x', sizeof longest);
    longest[LISTING_NAME_SIZE] = '\0';
    CU_ASSERT_FALSE(name_child(&at, longest, &below));
    longest[LISTING_NAME_SIZE - 1] = '\0';
    CU_ASSERT_TRUE(name_child(&at, longest, &below));
}

/* ---- Nodes ---- */

static struct fuse_mount *mount_without_a_session(void)
{
    static struct fuse_mount m;
    m = (struct fuse_mount){ .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
    nodes_init(&m);
    return &m;
}

static struct node *take(struct fuse_mount *m, enum node_kind kind, const char *image, const char *snapshot, time_t created)
{
    struct node_facts f = { .name = named(kind, image, snapshot), .created = created };
    struct node *n = node_take(m, &f);
    CU_ASSERT_PTR_NOT_NULL_FATAL(n);
    return n;
}

static void a_thing_keeps_its_number_while_the_kernel_knows_it(void)
{
    struct fuse_mount *m = mount_without_a_session();
    struct node *first = take(m, NODE_IMAGE, "a", "", 10), *again = take(m, NODE_IMAGE, "a", "", 10);
    CU_ASSERT_PTR_EQUAL(first, again);
    CU_ASSERT_PTR_EQUAL(node_of(m, node_ino(m, first)), first);
    CU_ASSERT_PTR_EQUAL(node_of(m, FUSE_ROOT_ID), &m->fixed[NODE_ROOT]);
    uint64_t number = first->number;
    node_forget(m, first, 1);
    CU_ASSERT_EQUAL(take(m, NODE_IMAGE, "a", "", 10)->number, number);
    node_hold(m, first);
    node_forget(m, first, 2); /* a handle is open: it stays */
    CU_ASSERT_EQUAL(take(m, NODE_IMAGE, "a", "", 10)->number, number);
    node_forget(m, first, 1);
    node_leave(m, first);
    CU_ASSERT_NOT_EQUAL(take(m, NODE_IMAGE, "a", "", 10)->number, number);
    nodes_fini(m);
}

static void a_new_thing_of_an_old_name_has_a_number_of_its_own(void)
{
    struct fuse_mount *m = mount_without_a_session();
    struct node *old = take(m, NODE_IMAGE, "a", "", 10), *new = take(m, NODE_IMAGE, "a", "", 11);
    struct node_name name = named(NODE_IMAGE, "a", "");
    CU_ASSERT_PTR_NOT_EQUAL(old, new);
    CU_ASSERT_PTR_EQUAL(take(m, NODE_IMAGE, "a", "", 11), new);
    node_forget(m, old, 1);
    node_gone(m, &name);
    CU_ASSERT_PTR_NOT_EQUAL(take(m, NODE_IMAGE, "a", "", 11), new); /* removed and made again within a second */
    nodes_fini(m);
}

static void a_rename_takes_an_image_and_its_snapshots_along(void)
{
    struct fuse_mount *m = mount_without_a_session();
    struct node *image = take(m, NODE_IMAGE, "a", "", 10), *folder = take(m, NODE_OF_IMAGE, "a", "", 0), *snapshot = take(m, NODE_SNAPSHOT, "a", "s", 10);
    struct node *other = take(m, NODE_IMAGE, "b", "", 5);
    struct node_name from = named(NODE_IMAGE, "a", ""), to = named(NODE_IMAGE, "b", ""), now;
    node_rename(m, &from, &to);
    CU_ASSERT_PTR_EQUAL(take(m, NODE_IMAGE, "b", "", 10), image);
    CU_ASSERT_PTR_EQUAL(take(m, NODE_OF_IMAGE, "b", "", 0), folder);
    CU_ASSERT_PTR_EQUAL(take(m, NODE_SNAPSHOT, "b", "s", 10), snapshot);
    CU_ASSERT_FALSE(other->named);
    from = named(NODE_SNAPSHOT, "b", "s"), to = named(NODE_SNAPSHOT, "b", "t");
    node_rename(m, &from, &to);
    node_get_name(m, snapshot, &now);
    CU_ASSERT_STRING_EQUAL(now.snapshot, "t");
    CU_ASSERT_PTR_EQUAL(take(m, NODE_OF_IMAGE, "b", "", 0), folder); /* not moved */
    node_get_name(m, image, &now);
    CU_ASSERT_STRING_EQUAL(now.image, "b");
    nodes_fini(m);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "fuse", (struct unit_test[]){
        UNIT(a_listing_tells_images_templates_and_snapshots_apart),
        UNIT(names_that_are_no_names_are_not_believed),
        UNIT(many_images_are_found),
        UNIT(a_path_is_walked_name_by_name),
        UNIT(a_thing_keeps_its_number_while_the_kernel_knows_it),
        UNIT(a_new_thing_of_an_old_name_has_a_number_of_its_own),
        UNIT(a_rename_takes_an_image_and_its_snapshots_along),
        { 0 },
    });
}
