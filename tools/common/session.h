/* session.h - one client of the server and the operation that it runs; seen by the files that implement commands.
 *
 * The life of an operation: a command's start function makes one with operation_begin, or ends at once. It answers exactly
 * once (session_answer or session_answer_error) and is then released exactly once (operation_end). If the client goes away,
 * abort is called: the operation stops as soon as what it has in flight is back, answers into the void, and ends. */
#ifndef TOOLS_COMMON_SESSION_H
#define TOOLS_COMMON_SESSION_H
#include "control/control.h"
#include "parallax/parallax.h"

struct server;
struct session;
struct operation;

struct operation_ops {
    /* Only for operations that take DATA; others leave the first three NULL. */
    void *(*buffer)(struct operation *o, uint32_t length);
    void (*data)(struct operation *o, uint64_t offset, void *buffer, uint32_t length);
    void (*end)(struct operation *o);
    void (*abort)(struct operation *o); /* may be NULL: the operation is short, and is waited for */
    void (*destroy)(struct operation *o);
};
struct operation {
    const struct operation_ops *ops;
    struct session *session;
};

struct session {
    struct control_peer peer;
    struct server *server;
    struct operation *operation; /* or NULL: the next request may come */
    json_t *request;             /* of the operation: its strings stay valid until the operation ends */
    int pid;                     /* the client's, or -1 */
    bool gone;
    /* private */
    uint64_t used_ms; /* when it last asked for something, or was answered */
    struct list_node link;
    struct loop_task reap;
};

struct store *session_store(struct session *s);
struct loop *session_loop(struct session *s);
void session_describe(struct session *s, json_t *status);

/* Reads arguments of the request as json_unpack does; false: it has answered that the request is malformed. */
bool session_arguments(struct session *s, json_t *request, const char *format, ...);
/* These steal doc. After the client has gone they do nothing. */
void session_item(struct session *s, json_t *doc);
void session_answer(struct session *s, json_t *result);
void session_answer_error(struct session *s, const struct error *err);

/* Makes o the session's operation. takes_data: frames go on being read. */
void operation_begin(struct session *s, struct operation *o, const struct operation_ops *ops, bool takes_data);
/* Destroys o; the session takes its next request. */
void operation_end(struct operation *o);

/* A store_op with an answer: the commonest operation. */
struct simple_operation {
    struct operation base;
    struct store_op op;
    json_t *result;     /* what is answered if op succeeds; may be replaced until then */
    const char **names; /* the engine's array of names, if it needs one; freed at the end, the strings are the request's */
    void (*succeeded)(struct simple_operation *p); /* called before the answer, to complete result; may be NULL */
};
/* Steals result. NULL: out of memory, answered. The caller then calls the engine with &p->op. */
struct simple_operation *simple_begin(struct session *s, json_t *result);

/* The strings of a JSON list as an array for the caller to free(); NULL: it has answered that list is no list of names. */
const char **session_names(struct session *s, const json_t *list, unsigned *count);

/* ---- Commands, by file ---- */
struct server_command {
    const char *name;
    void (*start)(struct session *s, json_t *request);
};
extern const struct server_command server_image_commands[], server_snap_commands[], server_look_commands[], server_slow_commands[],
    server_content_commands[], server_receive_commands[], server_send_commands[], server_bench_commands[];

/* ---- Documents ---- */

/* Gathers elements into ITEM frames of bounded size. Zero-initialise but for session; batch_flush sends the rest. */
struct batch {
    struct session *session;
    json_t *list;
};
void batch_add(struct batch *b, json_t *element); /* steals element */
void batch_flush(struct batch *b);

json_t *doc_time(uint64_t ns);  /* "2026-01-31T12:00:00Z", or null for 0 */
json_t *doc_text(const char *text); /* null for "" */
json_t *doc_image(const struct image_info *info);
json_t *doc_snapshot(const struct image_info *info);
#endif
