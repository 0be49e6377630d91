/* blkback_fake_image.h - the part of parallax.h that the backend uses, over memory, under a test's control.
 *
 * It is a header, included by one test program, so that these definitions are in the program's own object and the linker
 * does not take the engine's. Everything runs on the loop; requests end in a later turn, or when fake_release lets them. */
#ifndef TESTS_SUPPORT_BLKBACK_FAKE_IMAGE_H
#define TESTS_SUPPORT_BLKBACK_FAKE_IMAGE_H
#include "parallax/parallax.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAKE_LOG 4096
#define FAKE_IDENTITY "id:fake/1" /* of any image that was attached */

static struct fake {
    struct loop *loop;
    uint8_t *data;
    uint64_t size_bytes;
    struct list_node waiting;
    struct loop_task task;
    bool hold;             /* requests wait for fake_release */
    bool hold_writes;      /* writes alone do: the store is full */
    bool stopped;          /* writes that are held end as store_stop_waiting says */
    unsigned abandoned;    /* calls of image_stop_waiting */
    int fail;              /* every request ends with this */
    int open_error;
    char opened[IMAGE_TARGET_SIZE]; /* by what the last image was opened */
    unsigned opens, closes, writers, in_flight;
    enum image_op log[FAKE_LOG];
    uint64_t log_offset[FAKE_LOG];
    unsigned logged;
    bool unaligned;        /* some buffer was not aligned to 512 bytes */
    bool outside;          /* some request was not inside the image */
    void (*submitted)(void); /* called, if set, when a request has come; what it does happens beside the backend */
    struct image *last;
} fake;

struct image {
    enum image_mode mode;
    struct image_open_options opt;
};

static void fake_run(struct loop_task *t)
{
    struct list_node held = LIST_INIT(held), *n;
    (void)t;
    while (!fake.hold && (n = list_pop(&fake.waiting))) {
        struct image_req *req = container_of(n, struct image_req, link);
        uint8_t *at = fake.data + req->offset;
        bool full = fake.hold_writes && req->op == IMAGE_WRITE;
        int error = full ? -ECANCELED : fake.fail;
        if (full && !fake.stopped) {
            list_add_tail(&held, n);
            continue;
        }
        if (!error && req->op != IMAGE_FLUSH && (req->offset > fake.size_bytes || req->length > fake.size_bytes - req->offset))
            error = -EINVAL;
        for (unsigned i = 0; i < req->iov_count && !error; i++) {
            if (req->op == IMAGE_READ)
                memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
            else
                memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
            at += req->iov[i].iov_len;
        }
        if (req->op == IMAGE_DISCARD && !error)
            memset(at, 0, req->length);
        fake.in_flight--;
        req->done(req, error);
    }
    list_splice_tail(&fake.waiting, &held);
}

static void fake_init(struct loop *loop, uint64_t size_bytes)
{
    free(fake.data);
    memset(&fake, 0, sizeof fake);
    fake.loop = loop;
    fake.size_bytes = size_bytes;
    fake.data = calloc(1, size_bytes);
    fake.task.run = fake_run;
    list_init(&fake.waiting);
}

static inline void fake_release(void)
{
    fake.hold = fake.hold_writes = fake.stopped = false;
    loop_defer(fake.loop, &fake.task);
}

int image_open(struct store *s, const char *target, const struct image_open_options *opt, struct image **out, struct error *err)
{
    (void)s;
    if (fake.open_error)
        return error_set(err, fake.open_error, "image '%s' does not open", target);
    if (strncmp(target, "disk", 4) && strcmp(target, FAKE_IDENTITY))
        return error_set(err, -ENOENT, "no image '%s'", target);
    if (opt->mode == IMAGE_READ_WRITE && strchr(target, '@'))
        return error_set(err, -EROFS, "'%s' is a snapshot", target);
    if (opt->mode == IMAGE_READ_WRITE && fake.writers)
        return error_set(err, -EBUSY, "image '%s' is held by another", target);
    struct image *img = calloc(1, sizeof *img);
    img->mode = opt->mode;
    img->opt = *opt;
    fake.writers += opt->mode == IMAGE_READ_WRITE;
    fake.opens++;
    snprintf(fake.opened, sizeof fake.opened, "%s", target);
    fake.last = *out = img;
    return 0;
}

void image_close(struct image *img)
{
    fake.closes++;
    fake.writers -= img->mode == IMAGE_READ_WRITE;
    free(img);
}

void image_name(const struct image *img, char out[static IMAGE_TARGET_SIZE])
{
    (void)img;
    snprintf(out, IMAGE_TARGET_SIZE, "%s", "renamed");
}

void image_identity(const struct image *img, char out[static IMAGE_TARGET_SIZE])
{
    (void)img;
    snprintf(out, IMAGE_TARGET_SIZE, "%s", FAKE_IDENTITY);
}

void store_stop_waiting(struct store *s)
{
    (void)s;
    fake.stopped = true;
    loop_defer(fake.loop, &fake.task);
}

void image_stop_waiting(struct image *img)
{
    (void)img;
    fake.abandoned++;
}

bool image_waits(const struct image *img)
{
    (void)img;
    return false;
}

uint64_t image_size(const struct image *img)
{
    (void)img;
    return fake.size_bytes;
}

void image_submit(struct image *img, struct image_req *req)
{
    (void)img;
    if (fake.logged < FAKE_LOG) {
        fake.log_offset[fake.logged] = req->offset;
        fake.log[fake.logged++] = req->op;
    }
    if (req->op != IMAGE_FLUSH)
        fake.outside |= req->offset > fake.size_bytes || req->length > fake.size_bytes - req->offset;
    for (unsigned i = 0; i < req->iov_count; i++)
        fake.unaligned |= (uintptr_t)req->iov[i].iov_base % 512 || req->iov[i].iov_len % 512;
    fake.in_flight++;
    if (fake.submitted)
        fake.submitted();
    list_add_tail(&fake.waiting, &req->link);
    loop_defer(fake.loop, &fake.task);
}
#endif
