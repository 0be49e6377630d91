/* drain.c - see drain.h. */
#include "tools/parallax/drain.h"

#include <errno.h>

int drain_to_sink(struct cli *cli, json_t *request, struct sink *s, uint64_t offset, uint64_t length, struct progress *progress,
                  json_t **result, struct error *err)
{
    bool begun = false;
    if (cli_begin(cli, request, err))
        return err->code;
    for (;;) {
        struct control_frame f;
        if (cli_receive(cli, &f, result, err))
            return err->code;
        if (f.type == CONTROL_REPLY)
            return begun ? 0 : error_set(err, -EPROTO, "the server sent no size");
        if (f.type == CONTROL_ITEM && !begun) {
            uint64_t size = length ? length : json_count(f.doc, "size");
            begun = true;
            progress->total = size;
            sink_begin(s, size, err);
        } else if (f.type == CONTROL_DATA && begun && f.offset >= offset) {
            sink_write(s, f.offset - offset, f.data, f.length, err);
            progress_at(progress, f.offset - offset + f.length);
        } else {
            error_set(err, -EPROTO, "the server does not keep the protocol");
        }
        json_decref(f.doc);
        if (err->code)
            return err->code;
    }
}
