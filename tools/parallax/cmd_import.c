/* cmd_import.c - import.
 *
 * Raw bytes are read here; a file of another format is read through a confined qemu-nbd, and what NBD servers offer over the
 * network, by the same NBD reader. What an image file only refers to is not part of it, unless the user says so. */
#include "tools/parallax/commands.h"

#include "tools/common/size.h"
#include "tools/parallax/converter.h"
#include "tools/parallax/feed_nbd.h"
#include "tools/parallax/image_check.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define IMAGE_MAX_BYTES (16ull << 40)

struct import {
    struct cli *cli;
    const struct args *args;
    struct error *err;
    const char *source, *name;
    const char *format;       /* given, or found */
    bool given;               /* the format was given */
    json_t *result;
    struct progress progress;
};

static int check_format_option(const struct args *a, const char *format)
{
    if (!format || format_is_read(format))
        return EXIT_DONE;
    return cli_usage(a, "unknown format '%.64s'; there are raw, qcow2, vhd, vhdx, vmdk and vdi", format);
}

/* Sends the request for an image of that many bytes; what follows is data. */
static int begin(struct import *m, uint64_t size_bytes, struct feed_options *opt)
{
    if (size_bytes > IMAGE_MAX_BYTES)
        return error_set(m->err, -EFBIG, "%.200s has %llu bytes; an image can have up to 16 TiB", m->source, (unsigned long long)size_bytes);
    uint64_t padded = (size_bytes + 511) & ~(uint64_t)511;
    json_t *request = json_pack("{s:s,s:s,s:I,s:b}", "command", "import", "name", m->name, "size", (json_int_t)padded, "template",
                                option_set(m->args, "template"));
    if (cli_begin(m->cli, request, m->err))
        return m->err->code;
    opt->progress = &m->progress;
    progress_begin(&m->progress, m->cli, "import", size_bytes);
    return 0;
}

/* ---- From NBD, wherever it is ---- */

static int import_nbd(struct import *m, struct nbd_handle **nbd)
{
    struct feed_options opt = { 0 };
    struct libnbd_limits limits;
    int64_t size = libnbd.get_size(*nbd);
    if (size <= 0)
        return error_set(m->err, size ? -EIO : -ENODATA, size ? "cannot tell the size of %.200s" : "%.200s is empty", m->source);
    if (libnbd_limits(*nbd, m->source, &limits, m->err) || begin(m, (uint64_t)size, &opt))
        return m->err->code;
    feed_nbd(m->cli, nbd, &limits, m->source, (uint64_t)size, &opt, &m->result, m->err);
    progress_end(&m->progress, !m->err->code);
    return m->err->code;
}

static bool is_uri(const char *source)
{
    static const char *const schemes[] = { "nbd://", "nbds://", "nbd+unix://", "nbds+unix://", "nbd+vsock://", "nbds+vsock://" };
    for (unsigned i = 0; i < sizeof schemes / sizeof *schemes; i++)
        if (!strncmp(source, schemes[i], strlen(schemes[i])))
            return true;
    return false;
}

static int server_failed(struct import *m, int bad, const char *what, const char *hint)
{
    if (bad == -ECANCELED)
        return error_set(m->err, bad, "interrupted; nothing was changed");
    return error_set(m->err, bad, "%s %.200s: %s%s", what, m->source, libnbd_complaint(), hint);
}

static struct libnbd_wait wait_of(const struct import *m) { return (struct libnbd_wait){ .cancel_fd = m->cli->cancel_fd, .peer_fd = -1 }; }

/* What tells a format, in whole blocks of a server's: the tail, which may begin in the last but one, lies at tail_at in `last`. */
struct ends {
    unsigned char first[LIBNBD_LEAST_MAX], last[2 * LIBNBD_LEAST_MAX];
    size_t tail_at;
};

static int ask_bytes(struct import *m, struct nbd_handle *nbd, const struct libnbd_limits *l, unsigned char *out, uint64_t begin, uint64_t end)
{
    for (uint64_t n, at = begin; at < end; at += n) {
        n = end - at < l->most ? end - at : l->most;
        int bad = libnbd_finish(nbd, libnbd.aio_pread(nbd, out + (at - begin), n, at, NBD_NULL_COMPLETION, 0), wait_of(m));
        if (bad)
            return server_failed(m, bad, "cannot read", libnbd_limits_hint(l, at + n));
    }
    return 0;
}

static int ask_ends(struct import *m, struct nbd_handle *nbd, struct ends *e)
{
    struct libnbd_limits l;
    int64_t size = libnbd.get_size(nbd);
    if (size <= 0 || libnbd_limits(nbd, m->source, &l, m->err))
        return m->err->code; /* of a size that is none import_nbd tells */
    uint64_t head = FORMAT_HEAD > l.least ? FORMAT_HEAD : l.least, tail = size > (int64_t)FORMAT_TAIL ? (uint64_t)size - FORMAT_TAIL : 0;
    e->tail_at = tail % l.least;
    if (ask_bytes(m, nbd, &l, e->first, 0, (uint64_t)size < head ? (uint64_t)size : head))
        return m->err->code;
    return ask_bytes(m, nbd, &l, e->last, tail - e->tail_at, (uint64_t)size);
}

static int import_uri(struct import *m)
{
    struct ends ends = { .first = "" };
    const char *format = NULL;
    struct nbd_handle *nbd = libnbd_open(m->err);
    int bad = 0;
    if (!nbd)
        return m->err->code;
    if (m->given && strcmp(m->format, "raw"))
        error_set(m->err, -ENOTSUP, "what an NBD server offers is raw; its format cannot be %s", m->format);
    else if (libnbd.add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 || libnbd.set_uri_allow_local_file(nbd, true) < 0 ||
             (bad = libnbd_connect(nbd, m->source, wait_of(m))))
        server_failed(m, bad ? bad : -EIO, "cannot connect to", "");
    else if (!m->given && ask_ends(m, nbd, &ends) == 0)
        format = format_of_ends(ends.first, ends.last + ends.tail_at);
    if (format)
        error_set(m->err, -ENOTSUP, "%.200s offers the bytes of a %s file; let its server open that, or store them as they are with --format raw", m->source, format);
    m->format = "raw";
    if (!m->err->code)
        import_nbd(m, &nbd);
    if (nbd)
        libnbd.close(nbd);
    return m->err->code;
}

/* ---- From a file, a device or standard input ---- */

static int read_head_and_tail(struct import *m, struct source *s, unsigned char head[FORMAT_HEAD], unsigned char tail[FORMAT_TAIL])
{
    uint64_t tail_at = s->length > FORMAT_TAIL ? s->length - FORMAT_TAIL : 0;
    if (source_read(s, m->cli, 0, head, s->length < FORMAT_HEAD ? (size_t)s->length : FORMAT_HEAD, m->err))
        return m->err->code;
    return source_read(s, m->cli, tail_at, tail, (size_t)(s->length - tail_at), m->err);
}

static int import_raw(struct import *m, struct source *s)
{
    struct feed_options opt = { .refuse_format = m->given ? NULL : s->name };
    if (begin(m, s->length, &opt))
        return m->err->code;
    feed_source(m->cli, s, &opt, &m->result, m->err);
    progress_end(&m->progress, !m->err->code);
    return m->err->code;
}

static int import_converted(struct import *m, struct source *s, const unsigned char head[FORMAT_HEAD])
{
    bool with_backing = option_set(m->args, "with-backing") && format_chains(m->format), standard = !strcmp(m->source, "-");
    const char *outside = format_outside(m->format, head);
    struct error why = ERROR_NONE;
    struct converter v;
    if (outside && !format_chains(m->format))
        return error_set(m->err, -ENOTSUP, "'%.200s' %s, and the two of a %s image cannot be read together; merge them where they were made", s->name, outside, m->format);
    if (outside && !with_backing)
        return error_set(m->err, -EPERM, "'%.200s' %s, which is not read unless you say so with --with-backing", s->name, outside);
    if (s->start || (standard && with_backing))
        return error_set(m->err, -ENOTSUP, "a %s image on standard input must begin with it and stand alone; name its file", m->format);
    if (image_check(s->fd, m->format, with_backing ? m->source : NULL, m->cli, &why) ||
        converter_open(&v, s->fd, m->format, m->source, false, with_backing, m->cli, &why)) {
        if (why.code == -ECANCELED || why.code == -ENOENT || why.code == -ENOSYS || why.code == -ENOPKG)
            return error_set(m->err, why.code, "%s", why.text);
        return error_set(m->err, why.code, "'%.200s' is a %s file, and %.300s", s->name, m->format, why.text);
    }
    import_nbd(m, &v.nbd);
    converter_close(&v, false, m->err);
    return m->err->code;
}

static int import_file(struct import *m, uint64_t announced)
{
    unsigned char head[FORMAT_HEAD] = { 0 }, tail[FORMAT_TAIL] = { 0 };
    struct source s;
    if (source_open(&s, m->source, announced, IMAGE_MAX_BYTES, m->cli, m->err))
        return m->err->code;
    if (s.streamed && m->given && strcmp(m->format, "raw"))
        error_set(m->err, -ENOTSUP, "a %s image cannot be read as a stream; leave --size out, then a temporary copy is made", m->format);
    else if (!s.streamed && !(m->given && !strcmp(m->format, "raw")) && read_head_and_tail(m, &s, head, tail) == 0 && !m->given)
        m->format = format_of_ends(head, tail);
    if (!m->format)
        m->format = "raw";
    if (!m->err->code && !format_is_read(m->format))
        error_set(m->err, -ENOTSUP, "'%.200s' is a %s file, which is not read; unpack or convert it first, or store its bytes as they are with --format raw",
                  s.name, m->format);
    if (!m->err->code)
        strcmp(m->format, "raw") ? import_converted(m, &s, head) : import_raw(m, &s);
    source_close(&s);
    return m->err->code;
}

static int run_import(struct cli *cli, const struct args *a)
{
    struct error err = ERROR_NONE;
    struct import m = { .cli = cli, .args = a, .err = &err, .source = a->words[0], .name = a->words[1], .format = option_value(a, "format") };
    uint64_t announced = 0;
    char size[SIZE_TEXT_MAX];
    const char *size_text = option_value(a, "size");
    m.given = m.format != NULL;
    int status = check_format_option(a, m.format);
    if (status == EXIT_DONE && size_text)
        status = args_size(a, "size", size_text, &announced);
    if (status == EXIT_DONE && size_text && !announced)
        status = cli_usage(a, "size '%.64s' is zero", size_text);
    if (status != EXIT_DONE)
        return status;
    /* An input without end must not be read for a name that cannot be given. */
    json_t *taken = strcmp(m.source, "-") ? NULL : cli_find_image(cli, m.name, &err);
    if (taken)
        error_set(&err, -EEXIST, "image '%.200s' exists already; choose another name", m.name);
    json_decref(taken);
    if (!err.code && is_uri(m.source))
        import_uri(&m);
    else if (!err.code)
        import_file(&m, announced);
    if (err.code) {
        cli_disconnect(cli);
        return cli_fail(&err);
    }
    json_object_set_new(m.result, "format", json_string(m.format));
    cli_done(cli, m.result, "imported %s: %s, %s%s", m.name, json_size(m.result, "size", size), m.format, option_set(a, "template") ? ", a template" : "");
    json_decref(m.result);
    return EXIT_DONE;
}

const struct command import_commands[] = {
    { .name = "import", .arguments = "SRC NAME", .summary = "Make an image from a file, a device, an NBD URI or standard input (-)", .run = run_import,
      .least = 2, .most = 2,
      .options = { { "template", 0, NULL, "seal it as a template" },
                   { "format", 0, "F", "raw, qcow2, vhd, vhdx, vmdk or vdi (default: what its content looks like)" },
                   { "with-backing", 0, NULL, "read the other files that the image file refers to" },
                   { "size", 0, "SIZE", "how long raw standard input is: saves a temporary copy" } },
      .examples = "  parallax import debian-12.qcow2 debian-12 --template   # to be cloned; the format is found by content\n"
                  "  xzcat disk.raw.xz | parallax import - vm1\n"
                  "  parallax import nbd://10.0.0.1/old-disk vm2            # from a server on another machine\n"
                  "  parallax import overlay.qcow2 vm3 --with-backing       # reads its backing file too\n"
                  "  parallax import /dev/vg0/old vm4                       # a device, byte for byte\n" },
    { 0 },
};
