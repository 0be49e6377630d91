/* encoder.c - see encoder.h. A slot is a copy of some bytes on its way to qemu-nbd. */
#include "tools/parallax/encoder.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 16u
#define PIECE (256u << 10)
#define UNIT 65536u /* a cluster of qcow2: what is left out must be whole ones to save anything */

struct slot {
    struct encoder *owner;
    bool busy;
    unsigned char *data; /* PIECE bytes */
};

struct encoder {
    struct converter converter;
    struct cli *cli;
    struct slot slots[SLOTS];
    unsigned char *memory;
    unsigned writing;
    int error;
};

int encoder_open(int fd, const char *format, uint64_t size_bytes, struct cli *cli, struct encoder **out, struct error *err)
{
    struct encoder *e = calloc(1, sizeof *e);
    if (e)
        e->memory = malloc((size_t)SLOTS * PIECE);
    if (!e || !e->memory)
        error_set(err, -ENOMEM, "out of memory");
    else if (converter_create(fd, format, size_bytes, err) == 0)
        converter_open(&e->converter, fd, format, NULL, true, false, cli, err);
    if (!err->code && libnbd.get_size(e->converter.nbd) != (int64_t)size_bytes)
        error_set(err, -EFBIG, "a %s image cannot have exactly %llu bytes", format, (unsigned long long)size_bytes);
    if (err->code) {
        if (e)
            encoder_close(e);
        return err->code;
    }
    e->cli = cli;
    for (unsigned i = 0; i < SLOTS; i++)
        e->slots[i] = (struct slot){ .owner = e, .data = e->memory + (size_t)i * PIECE };
    *out = e;
    return 0;
}

static int failed(struct encoder *e, struct error *err)
{
    char why[200];
    if (e->error)
        return error_set(err, -e->error, "writing the image file failed: %s", strerror(e->error));
    const char *complaint = converter_complaint(&e->converter, why);
    return error_set(err, -EIO, "writing the image file failed: %s", *complaint ? complaint : libnbd_complaint());
}

static int write_done(void *ctx, int *error)
{
    struct slot *s = ctx;
    s->busy = false;
    s->owner->writing--;
    if (*error && !s->owner->error)
        s->owner->error = *error;
    return 1;
}

/* Moves bytes until fewer than `most` writes are under way. */
static int turn(struct encoder *e, unsigned most, struct error *err)
{
    while (!err->code && e->writing >= most && !e->error) {
        int bad = libnbd_turn(e->converter.nbd, (struct libnbd_wait){ .cancel_fd = e->cli->cancel_fd, .peer_fd = -1 });
        if (bad)
            return bad == -ECANCELED ? error_set(err, bad, "interrupted") : failed(e, err);
    }
    return e->error ? failed(e, err) : err->code;
}

static int put(struct encoder *e, uint64_t offset, const unsigned char *data, size_t length, struct error *err)
{
    struct slot *s = e->slots;
    if (turn(e, SLOTS, err))
        return err->code;
    while (s->busy)
        s++;
    memcpy(s->data, data, length);
    s->busy = true;
    e->writing++;
    if (libnbd.aio_pwrite(e->converter.nbd, s->data, length, offset, (nbd_completion_callback){ .callback = write_done, .user_data = s }, 0) < 0)
        return failed(e, err);
    return 0;
}

static bool all_zero(const unsigned char *p, size_t length) { return *p == 0 && memcmp(p, p + 1, length - 1) == 0; }

int encoder_write(struct encoder *e, uint64_t offset, const void *data, size_t length, struct error *err)
{
    const unsigned char *p = data;
    while (length) {
        size_t n = UNIT - offset % UNIT;
        n = n < length ? n : length;
        if (all_zero(p, n)) {
            p += n, offset += n, length -= n;
            continue;
        }
        size_t run = n;
        while (run < length && run + UNIT <= PIECE) {
            size_t more = length - run < UNIT ? length - run : UNIT;
            if (all_zero(p + run, more))
                break;
            run += more;
        }
        if (put(e, offset, p, run, err))
            return err->code;
        p += run, offset += run, length -= run;
    }
    return 0;
}

int encoder_finish(struct encoder *e, struct error *err)
{
    if (turn(e, 1, err))
        return err->code;
    if (libnbd.flush(e->converter.nbd, 0) < 0)
        return failed(e, err);
    return converter_close(&e->converter, true, err);
}

void encoder_close(struct encoder *e)
{
    struct error unused = ERROR_NONE;
    if (e->converter.pid > 0)
        converter_close(&e->converter, false, &unused);
    free(e->memory);
    free(e);
}
