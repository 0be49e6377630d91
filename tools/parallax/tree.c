/* tree.c - see tree.h.
 *
 * A snapshot stands below its image, a clone below what it was cloned from. Children are found by sorting all nodes by
 * parent; the walk keeps its own stack, so that a long line of clones of clones needs no deep recursion. */
#include "tools/parallax/tree.h"

#include "tools/parallax/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct node {
    char *name, *parent; /* parent "": a root */
    const char *mark;
};

struct forest {
    struct node *nodes; /* sorted by parent, then name */
    size_t count;
};

static int by_parent(const void *x, const void *y)
{
    const struct node *a = x, *b = y;
    int order = strcmp(a->parent, b->parent);
    return order ? order : strcmp(a->name, b->name);
}

static bool known(const json_t *names, const char *name) { return *name && json_object_get(names, name); }

static char *join(const char *image, const char *snapshot)
{
    char *out;
    return asprintf(&out, "%s@%s", image, snapshot) < 0 ? NULL : out;
}

static size_t count_nodes(const json_t *list)
{
    size_t i, n = 0;
    json_t *image;
    json_array_foreach(list, i, image)
        n += 1 + json_array_size(json_object_get(image, "snapshots"));
    return n;
}

static void forest_destroy(struct forest *f)
{
    for (size_t i = 0; i < f->count; i++) {
        free(f->nodes[i].name);
        free(f->nodes[i].parent);
    }
    free(f->nodes);
}

static bool add_node(struct forest *f, char *name, const char *parent, const char *mark)
{
    f->nodes[f->count++] = (struct node){ name, strdup(parent), mark };
    return name && f->nodes[f->count - 1].parent;
}

static bool forest_build(struct forest *f, const json_t *list)
{
    size_t i, k;
    json_t *image, *snap, *names = json_object();
    bool good = (f->nodes = calloc(count_nodes(list) + 1, sizeof *f->nodes)) != NULL;
    f->count = 0;
    json_array_foreach(list, i, image) {
        json_object_set_new(names, json_text(image, "name"), json_true());
        json_array_foreach(json_object_get(image, "snapshots"), k, snap) {
            char *name = join(json_text(image, "name"), json_text(snap, "name"));
            json_object_set_new(names, name ? name : "", json_true());
            free(name);
        }
    }
    json_array_foreach(list, i, image) {
        const char *name = json_text(image, "name"), *parent = json_text(image, "parent");
        good = good && add_node(f, strdup(name), known(names, parent) ? parent : "", json_flag(image, "template") ? " (template)" : "");
        json_array_foreach(json_object_get(image, "snapshots"), k, snap)
            good = good && add_node(f, join(name, json_text(snap, "name")), name, "");
    }
    json_decref(names);
    if (good)
        qsort(f->nodes, f->count, sizeof *f->nodes, by_parent);
    return good;
}

/* The index of the first node of this parent, or count. */
static size_t first_child(const struct forest *f, const char *parent)
{
    size_t low = 0, high = f->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(f->nodes[middle].parent, parent) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < f->count && !strcmp(f->nodes[low].parent, parent) ? low : f->count;
}

static bool has_sibling_after(const struct forest *f, size_t i)
{
    return i + 1 < f->count && !strcmp(f->nodes[i].parent, f->nodes[i + 1].parent);
}

static void print_line(const struct forest *f, const size_t *stack, size_t depth)
{
    for (size_t d = 1; d < depth; d++)
        fputs(has_sibling_after(f, stack[d]) ? "|  " : "   ", stdout);
    if (depth)
        fputs(has_sibling_after(f, stack[depth]) ? "|- " : "`- ", stdout);
    printf("%s%s\n", f->nodes[stack[depth]].name, f->nodes[stack[depth]].mark);
}

void tree_print(const json_t *list)
{
    struct forest f;
    bool good = forest_build(&f, list);
    size_t *stack = calloc(f.count + 1, sizeof *stack), depth = 0, at = good && stack ? first_child(&f, "") : f.count;
    while (at < f.count) {
        stack[depth] = at;
        print_line(&f, stack, depth);
        size_t child = first_child(&f, f.nodes[at].name);
        if (child < f.count) {
            depth++;
            at = child;
            continue;
        }
        while (depth && !has_sibling_after(&f, stack[depth]))
            depth--;
        at = has_sibling_after(&f, stack[depth]) ? stack[depth] + 1 : f.count;
    }
    free(stack);
    forest_destroy(&f);
}

void tree_print_dot(const json_t *list)
{
    struct forest f;
    if (forest_build(&f, list)) {
        puts("digraph parallax {\n  rankdir=LR;\n  node [shape=box];");
        for (size_t i = 0; i < f.count; i++) {
            const struct node *n = &f.nodes[i];
            printf("  \"%s\"%s;\n", n->name, *n->mark ? " [style=bold]" : strchr(n->name, '@') ? " [shape=ellipse]" : "");
            if (*n->parent)
                printf("  \"%s\" -> \"%s\";\n", n->parent, n->name);
        }
        puts("}");
    }
    forest_destroy(&f);
}
