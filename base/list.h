/* list.h - intrusive doubly linked list.
 *
 * A list is a list_node that points at itself when empty. Nothing is allocated; the element embeds its node and owns it.
 * Threads: none of its own; the owner of the list serialises. */
#ifndef BASE_LIST_H
#define BASE_LIST_H
#include <stdbool.h>
#include <stddef.h>

struct list_node {
    struct list_node *next, *prev;
};

#define LIST_INIT(name) { &(name), &(name) }
#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static inline void list_init(struct list_node *l) { l->next = l->prev = l; }
static inline bool list_empty(const struct list_node *l) { return l->next == l; }

static inline void list_add_tail(struct list_node *l, struct list_node *n)
{
    n->prev = l->prev;
    n->next = l;
    l->prev->next = n;
    l->prev = n;
}

static inline void list_add_head(struct list_node *l, struct list_node *n) { list_add_tail(l->next, n); }

/* Unlinks n and leaves it empty, so that removing twice is harmless. */
static inline void list_remove(struct list_node *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}

static inline struct list_node *list_pop(struct list_node *l)
{
    struct list_node *n = l->next;
    if (n == l)
        return NULL;
    list_remove(n);
    return n;
}

/* Moves all of from to the tail of to; from is empty afterwards. */
static inline void list_splice_tail(struct list_node *to, struct list_node *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#define list_for_each(n, l) for (struct list_node *n = (l)->next; n != (l); n = n->next)
/* n may be removed or freed inside the body. */
#define list_for_each_safe(n, l) \
    for (struct list_node *n = (l)->next, *n##_next = n->next; n != (l); n = n##_next, n##_next = n->next)
#endif
