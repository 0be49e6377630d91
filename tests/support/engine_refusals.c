/* engine_refusals.c - what must be refused, asked for at random: with the right error, a line of text, and no effect.
 *
 * That nothing changed shows in the comparisons of names and contents that the session makes anyway. */
#include "tests/support/engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void expect(struct engine *e, struct engine_run *run, int wanted, const char *what)
{
    int err = engine_run(e, run, what);
    if (engine_is_dead(e) || e->faulty)
        return;
    if (!err || (wanted && err != wanted))
        engine_fail("%s was answered with %d (%s), should be refused with %d", what, err, run->op.error.text, wanted);
    if (!run->op.error.text[0])
        engine_fail("%s was refused without a word", what);
}

static bool any_image(const struct object *o) { return !o->operations; }
static bool any_snapshot(const struct object *o) { return !o->operations && !o->image->operations; }
static bool has_writer(const struct object *o) { return !o->operations && o->writer; }
static bool has_snapshots(const struct object *o) { return !o->operations && o->snapshot_count; }
static bool is_protected(const struct object *o) { return !o->operations && o->is_protected && !o->writer && !o->reader && !o->snapshot_count; }
static bool is_template(const struct object *o) { return !o->operations && o->is_template; }
static bool can_shrink(const struct object *o) { return !o->operations && !o->is_template && o->content->size_bytes > 512; }

static void refuse_names(struct engine *e, struct object *o)
{
    static const char *const bad[] = { "", "-x", ".x", "a b", "a/b", "a@b", "\xc3\xa4" };
    struct engine_run run;
    char longest[IMAGE_NAME_MAX + 2];
    engine_run_arm(&run);
    image_create(e->store, &run.op, o->name, 4096);
    expect(e, &run, -EEXIST, "creating an image that exists");
    engine_run_arm(&run);
    image_create(e->store, &run.op, bad[world_random(&e->world, sizeof bad / sizeof bad[0])], 4096);
    expect(e, &run, -EINVAL, "creating an image with a bad name");
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    engine_run_arm(&run);
    image_create(e->store, &run.op, longest, 4096);
    expect(e, &run, -EINVAL, "creating an image with a name too long");
    engine_run_arm(&run);
    image_create(e->store, &run.op, "too-big", IMAGE_SIZE_MAX + 512);
    expect(e, &run, -EINVAL, "creating an image too big");
    engine_run_arm(&run);
    image_clone(e->store, &run.op, "no-such-image", "clone-of-nothing");
    expect(e, &run, -ENOENT, "cloning what does not exist");
    engine_run_arm(&run);
    image_clone(e->store, &run.op, o->name, o->name);
    expect(e, &run, -EEXIST, "cloning onto a name that exists");
    engine_run_arm(&run);
    image_rename(e->store, &run.op, "no-such-image", "renamed-nothing");
    expect(e, &run, -ENOENT, "renaming what does not exist");
}

static void refuse_batch(struct engine *e, struct object *o)
{
    char prefix[IMAGE_NAME_MAX], clash[IMAGE_NAME_MAX + 8], a[IMAGE_TARGET_SIZE], b[IMAGE_TARGET_SIZE];
    struct engine_run run;
    world_new_name(&e->world, prefix, "clash");
    strcat(prefix, "-");
    snprintf(clash, sizeof clash, "%s7", prefix);
    engine_run_arm(&run);
    image_create(e->store, &run.op, clash, 4096);
    if (engine_run(e, &run, "creating an image"))
        return;
    engine_run_arm(&run);
    image_clone_many(e->store, &run.op, o->name, prefix, 0, 10);
    expect(e, &run, -EEXIST, "cloning many where one name is taken");
    const char *names[] = { clash, "no-such-image" };
    engine_run_arm(&run);
    image_delete(e->store, &run.op, names, 2, false, false);
    expect(e, &run, -ENOENT, "deleting two images of which one does not exist");
    snprintf(a, sizeof a, "%.100s@one", clash);
    snprintf(b, sizeof b, "no-such-image@two");
    const char *targets[] = { a, b };
    engine_run_arm(&run);
    snapshot_create(e->store, &run.op, targets, 2);
    expect(e, &run, -ENOENT, "a group snapshot of which one image does not exist");
    engine_run_arm(&run);
    image_delete(e->store, &run.op, names, 1, false, false);
    if (engine_run(e, &run, "deleting an image") && !engine_is_dead(e) && !e->faulty)
        engine_fail("deleting '%s', which has no snapshots: %s", clash, run.op.error.text);
}

static void refuse_open(struct engine *e, struct object *o, int wanted, const char *what)
{
    char target[IMAGE_TARGET_SIZE];
    struct image_open_options opt = { .mode = IMAGE_READ_WRITE, .holder = "a second writer" };
    struct image *img;
    struct error err = ERROR_NONE;
    world_target(o, target);
    int rc = image_open(e->store, target, &opt, &img, &err);
    if (rc != wanted || !err.text[0])
        engine_fail("%s '%s' was answered with %d (%s)", what, target, rc, err.text);
}

static void refuse_on_running(struct engine *e, struct object *o)
{
    const char *name = o->name;
    struct engine_run run;
    refuse_open(e, o, -EBUSY, "a second writer of");
    o->operations++;
    engine_run_arm(&run);
    image_delete(e->store, &run.op, &name, 1, true, false);
    expect(e, &run, o->is_protected ? 0 : -EBUSY, "deleting an image that is written");
    if (o->snapshot_count && !engine_is_dead(e)) {
        char target[IMAGE_TARGET_SIZE];
        world_target(container_of(o->snapshots.next, struct object, link), target);
        engine_run_arm(&run);
        snapshot_rollback(e->store, &run.op, target, NULL);
        expect(e, &run, -EBUSY, "rolling back an image that is written");
    }
    o->operations--;
}

static void refuse_on_snapshots(struct engine *e, struct object *o)
{
    char target[IMAGE_TARGET_SIZE];
    const char *name = o->name, *targets = target;
    struct engine_run run;
    o->operations++;
    engine_run_arm(&run);
    image_delete(e->store, &run.op, &name, 1, false, false);
    expect(e, &run, 0, "deleting an image with snapshots, unasked for");
    world_target(container_of(o->snapshots.next, struct object, link), target);
    engine_run_arm(&run);
    snapshot_create(e->store, &run.op, &targets, 1);
    expect(e, &run, o->is_template ? -EROFS : -EEXIST, "taking a snapshot of a name that exists");
    o->operations--;
}

static void refuse_one(struct engine *e, struct object *o, void (*begin)(struct engine *, struct engine_run *, struct object *, const char *const *), int wanted, const char *what)
{
    struct engine_run run;
    const char *name = o->name;
    engine_run_arm(&run);
    o->operations++;
    begin(e, &run, o, &name);
    expect(e, &run, wanted, what);
    o->operations--;
}

static void begin_delete(struct engine *e, struct engine_run *run, struct object *o, const char *const *name)
{
    (void)o;
    image_delete(e->store, &run->op, name, 1, true, false);
}

static void begin_shrink(struct engine *e, struct engine_run *run, struct object *o, const char *const *name)
{
    image_resize(e->store, &run->op, *name, o->content->size_bytes - 512, false);
}

void engine_random_refusal(struct engine *e)
{
    struct world *w = &e->world;
    struct object *o;
    switch (world_random(w, 8)) {
    case 0:
        if ((o = world_pick_image(w, any_image)))
            refuse_names(e, o);
        break;
    case 1:
        if ((o = world_pick_image(w, any_image)))
            refuse_batch(e, o);
        break;
    case 2:
        if ((o = world_pick_image(w, has_writer)))
            refuse_on_running(e, o);
        break;
    case 3:
        if ((o = world_pick_image(w, has_snapshots)))
            refuse_on_snapshots(e, o);
        break;
    case 4:
        if ((o = world_pick_snapshot(w, any_snapshot)))
            refuse_open(e, o, -EROFS, "writing to snapshot");
        break;
    case 5:
        if ((o = world_pick_image(w, is_template)))
            refuse_open(e, o, -EROFS, "writing to template");
        break;
    case 6:
        if ((o = world_pick_image(w, is_protected)))
            refuse_one(e, o, begin_delete, -EPERM, "deleting a protected image");
        break;
    default:
        if ((o = world_pick_image(w, can_shrink)))
            refuse_one(e, o, begin_shrink, 0, "shrinking without being asked to");
    }
}
