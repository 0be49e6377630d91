/* What the engine counts of requests: each once, when it has ended, for its image and for the store. */
#include "tests/support/bare.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <string.h>

#define STORE_BYTES (256ull << 20)

struct seen {
    unsigned images;
    char name[IMAGE_TARGET_SIZE];
    struct image_counters count;
};

static int keep(void *ctx, const char *name, const char *identity, const struct image_counters *count)
{
    (void)identity;
    struct seen *s = ctx;
    s->images++;
    strcpy(s->name, name);
    s->count = *count;
    return 0;
}

static struct seen look(struct bare *b)
{
    struct seen s = { 0 };
    store_each_counted(b->store, keep, &s);
    return s;
}

static uint64_t requests(const struct image_counters *c, enum image_op op) { return histogram_count(&c->latency[op]); }

static uint64_t reads_now(struct bare *b)
{
    struct seen s = look(b);
    return requests(&s.count, IMAGE_READ);
}

static void ended(struct image_req *req, int error)
{
    *(int *)req->context = error;
}

/* Any request of the given image; its error. */
static int run(struct bare *b, struct image *img, struct image_req *req)
{
    int result = BARE_PENDING;
    req->done = ended;
    req->context = &result;
    image_submit(img, req);
    while (result == BARE_PENDING)
        loop_turn(b->loop, 10);
    return result;
}

static void every_request_is_counted_once_for_its_image_and_for_the_store(void)
{
    struct bare b = { .seed = 1 };
    bare_begin(&b, STORE_BYTES);
    struct image_counters before = *store_get_counters(b.store);
    struct seen was = look(&b);
    CU_ASSERT_EQUAL(was.images, 1);
    CU_ASSERT_STRING_EQUAL(was.name, "a");
    for (unsigned i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(bare_write(&b, i * 8, 8, i + 1), 0);
    for (unsigned i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(bare_read(&b, i * 8), i + 1);
    CU_ASSERT_EQUAL(bare_flush(&b), 0);
    CU_ASSERT_EQUAL(bare_discard(&b, 0, 16), 0);
    struct seen s = look(&b);
    const struct image_counters *all = store_get_counters(b.store), *ours = &s.count, *then[] = { &before, &was.count }, *now[] = { all, ours };
    for (unsigned k = 0; k < 2; k++) {
        CU_ASSERT_EQUAL(requests(now[k], IMAGE_WRITE) - requests(then[k], IMAGE_WRITE), 5);
        CU_ASSERT_EQUAL(requests(now[k], IMAGE_READ) - requests(then[k], IMAGE_READ), 3);
        CU_ASSERT_EQUAL(requests(now[k], IMAGE_FLUSH) - requests(then[k], IMAGE_FLUSH), 1);
        CU_ASSERT_EQUAL(requests(now[k], IMAGE_DISCARD) - requests(then[k], IMAGE_DISCARD), 1);
        CU_ASSERT_EQUAL(now[k]->bytes[IMAGE_WRITE] - then[k]->bytes[IMAGE_WRITE], 5 * 32768);
        CU_ASSERT_EQUAL(now[k]->bytes[IMAGE_READ] - then[k]->bytes[IMAGE_READ], 3 * 4096);
        CU_ASSERT_EQUAL(now[k]->bytes[IMAGE_DISCARD] - then[k]->bytes[IMAGE_DISCARD], 65536);
        CU_ASSERT_EQUAL(now[k]->errors - then[k]->errors, 0);
        CU_ASSERT(now[k]->latency[IMAGE_WRITE].sum_ns > then[k]->latency[IMAGE_WRITE].sum_ns);
    }
    bare_end(&b);
}

static void what_a_request_is_made_of_inside_is_not_counted(void)
{
    struct bare b = { .seed = 2 };
    bare_begin(&b, STORE_BYTES);
    static _Alignas(512) uint8_t memory[1024];
    memset(memory, 7, sizeof memory);
    struct iovec iov = { memory, sizeof memory };
    struct image_counters before = *store_get_counters(b.store);
    /* Across the border of two blocks: both are read, merged and written. */
    CU_ASSERT_EQUAL(run(&b, b.img, &(struct image_req){ .op = IMAGE_WRITE, .offset = 3584, .length = 1024, .iov = &iov, .iov_count = 1 }), 0);
    CU_ASSERT_EQUAL(run(&b, b.img, &(struct image_req){ .op = IMAGE_DISCARD, .offset = 512, .length = 16384 }), 0);
    CU_ASSERT_EQUAL(run(&b, b.img, &(struct image_req){ .op = IMAGE_WRITE, .flags = IMAGE_FUA, .offset = 0, .length = 1024, .iov = &iov, .iov_count = 1 }), 0);
    const struct image_counters *now = store_get_counters(b.store);
    CU_ASSERT_EQUAL(requests(now, IMAGE_WRITE) - requests(&before, IMAGE_WRITE), 2);
    CU_ASSERT_EQUAL(requests(now, IMAGE_READ) - requests(&before, IMAGE_READ), 0);
    CU_ASSERT_EQUAL(requests(now, IMAGE_FLUSH) - requests(&before, IMAGE_FLUSH), 0);
    CU_ASSERT_EQUAL(requests(now, IMAGE_DISCARD) - requests(&before, IMAGE_DISCARD), 1);
    CU_ASSERT_EQUAL(now->bytes[IMAGE_WRITE] - before.bytes[IMAGE_WRITE], 2048);
    bare_end(&b);
}

static void a_refused_request_is_an_error_and_nothing_else(void)
{
    struct bare b = { .seed = 3 };
    bare_begin(&b, STORE_BYTES);
    struct seen was = look(&b);
    CU_ASSERT_EQUAL(run(&b, b.img, &(struct image_req){ .op = IMAGE_DISCARD, .offset = image_size(b.img), .length = 512 }), -EINVAL);
    struct seen s = look(&b);
    CU_ASSERT_EQUAL(s.count.errors - was.count.errors, 1);
    CU_ASSERT_EQUAL(requests(&s.count, IMAGE_DISCARD) - requests(&was.count, IMAGE_DISCARD), 0);
    bare_end(&b);
}

static void users_of_an_image_share_its_counters_until_the_last_has_closed(void)
{
    struct bare b = { .seed = 4 };
    struct image_open_options reader = { .mode = IMAGE_READ_ONLY };
    struct image *second;
    bare_begin(&b, STORE_BYTES);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "a", &reader, &second, &b.err), 0);
    CU_ASSERT_EQUAL(look(&b).images, 1);
    static _Alignas(4096) uint8_t memory[4096];
    struct iovec iov = { memory, sizeof memory };
    struct image_req read = { .op = IMAGE_READ, .length = 4096, .iov = &iov, .iov_count = 1 };
    uint64_t reads = reads_now(&b);
    CU_ASSERT_EQUAL(run(&b, second, &read), 0);
    image_close(second);
    CU_ASSERT_EQUAL(reads_now(&b), reads + 1);
    image_close(b.img);
    CU_ASSERT_EQUAL(look(&b).images, 0);
    /* The store remembers. */
    CU_ASSERT(requests(store_get_counters(b.store), IMAGE_READ) > reads);
    CU_ASSERT_EQUAL_FATAL(image_open(b.store, "a", &(struct image_open_options){ .mode = IMAGE_READ_WRITE }, &b.img, &b.err), 0);
    CU_ASSERT_EQUAL(reads_now(&b), 0);
    bare_end(&b);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "counters", (struct unit_test[]){
        UNIT(every_request_is_counted_once_for_its_image_and_for_the_store), UNIT(what_a_request_is_made_of_inside_is_not_counted),
        UNIT(a_refused_request_is_an_error_and_nothing_else), UNIT(users_of_an_image_share_its_counters_until_the_last_has_closed), { 0 } });
}
