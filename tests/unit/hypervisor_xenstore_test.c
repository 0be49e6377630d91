/* hypervisor_xenstore_test.c - the embedded hypervisor's xenstore as domains see it through libxenstore. */
#include "tests/unit/hypervisor_test.h"

#include <pthread.h>

/* The toolstack and two guests, each with a xenstore connection. */
static struct hv *tool_hv, *a_hv, *b_hv;
static struct hv_xs *tool, *a, *b;
static char a_home[64], b_home[64];

static void setup(void)
{
    tool_hv = open_as(HV_TOOLSTACK, NULL, 0);
    a_hv = open_as(HV_GUEST, "a", 0);
    b_hv = open_as(HV_GUEST, "b", 0);
    CU_ASSERT_EQUAL_FATAL(hv_xs_open(tool_hv, &tool), 0);
    CU_ASSERT_EQUAL_FATAL(hv_xs_open(a_hv, &a), 0);
    CU_ASSERT_EQUAL_FATAL(hv_xs_open(b_hv, &b), 0);
    snprintf(a_home, sizeof a_home, "/local/domain/%u", hv_own_domid(a_hv));
    snprintf(b_home, sizeof b_home, "/local/domain/%u", hv_own_domid(b_hv));
}

static void teardown(void)
{
    hv_xs_remove(tool, 0, "/test");
    hv_xs_close(a);
    hv_xs_close(b);
    hv_xs_close(tool);
    hv_close(a_hv);
    hv_close(b_hv);
    hv_close(tool_hv);
}

static char value[8192];
/* The value at path in `value`, or the error. */
static int get(struct hv_xs *xs, hv_xs_tx tx, const char *path)
{
    char *v;
    size_t n;
    value[0] = 0;
    int r = hv_xs_read(xs, tx, path, &v, &n);
    if (r)
        return r;
    memcpy(value, v, n + 1);
    free(v);
    return 0;
}

/* The next watch event's token and path, or "" after timeout_ms. */
static char event_path[4096], event_token[256];
static bool event(struct hv_xs *xs, int timeout_ms)
{
    char *path, *token;
    event_path[0] = event_token[0] = 0;
    for (int waited = 0; waited <= timeout_ms; waited += 5) {
        if (hv_xs_check_watch(xs, &path, &token) == 0) {
            snprintf(event_path, sizeof event_path, "%s", path);
            snprintf(event_token, sizeof event_token, "%s", token);
            free(path);
            return true;
        }
        readable(hv_xs_fd(xs), 5);
    }
    return false;
}

static void a_domain_finds_its_home(void)
{
    char id[16], **names;
    unsigned n;
    setup();
    snprintf(id, sizeof id, "%u", hv_own_domid(a_hv));
    CU_ASSERT_EQUAL(get(a, 0, "domid"), 0);
    CU_ASSERT_STRING_EQUAL(value, id);
    CU_ASSERT_EQUAL(get(a, 0, "name"), 0);
    CU_ASSERT_STRING_EQUAL(value, "a");
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "name", "other"), -EACCES);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/x", "1"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "device/vbd/51712/state", "1"), 0);
    CU_ASSERT_EQUAL(hv_xs_printf(a, 0, "device/vbd/51712/ring-ref", "%u", 8u), 0);
    CU_ASSERT_EQUAL_FATAL(hv_xs_directory(a, 0, "device/vbd/51712", &names, &n), 0);
    CU_ASSERT_EQUAL(n, 2);
    CU_ASSERT_STRING_EQUAL(names[0], "ring-ref");
    CU_ASSERT_STRING_EQUAL(names[1], "state");
    CU_ASSERT_PTR_NULL(names[2]);
    free(names);
    teardown();
}

static void nodes_are_written_read_listed_and_removed(void)
{
    setup();
    CU_ASSERT_EQUAL(get(tool, 0, "/test/x"), -ENOENT);
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/x/y/z", "deep"), 0);
    CU_ASSERT_EQUAL(get(tool, 0, "/test/x"), 0);
    CU_ASSERT_STRING_EQUAL(value, "");
    CU_ASSERT_EQUAL(get(tool, 0, "/test/x/y/z"), 0);
    CU_ASSERT_STRING_EQUAL(value, "deep");
    CU_ASSERT_EQUAL(hv_xs_mkdir(tool, 0, "/test/x/y/z"), 0);
    CU_ASSERT_EQUAL(get(tool, 0, "/test/x/y/z"), 0);
    CU_ASSERT_STRING_EQUAL(value, "deep");
    CU_ASSERT_EQUAL(hv_xs_remove(tool, 0, "/test/x/nothing"), 0);
    CU_ASSERT_EQUAL(hv_xs_remove(tool, 0, "/test/nothing/there"), -ENOENT);
    CU_ASSERT_EQUAL(hv_xs_remove(tool, 0, "/test/x"), 0);
    CU_ASSERT_EQUAL(get(tool, 0, "/test/x/y/z"), -ENOENT);
    CU_ASSERT_EQUAL(hv_xs_remove(tool, 0, "/"), -EINVAL);
    teardown();
}

static void malformed_paths_are_refused(void)
{
    static const char *const bad[] = { "", "//", "/a//b", "/a/", "/a b", "/a.b", "/a\nb", "@nowhere", "/\xff" };
    char *longest = malloc(4000);
    setup();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_EQUAL(hv_xs_write(tool, 0, bad[i], "x"), -EINVAL);
    memset(longest, 'a', 4000);
    longest[0] = '/';
    longest[3072] = 0;
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, longest, "x"), 0);
    CU_ASSERT_EQUAL(hv_xs_remove(tool, 0, longest), 0);
    longest[3072] = 'a';
    longest[3073] = 0;
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, longest, "x"), -EINVAL);
    longest[2049] = 0;
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, longest + 1, "x"), 0);
    longest[2049] = 'a';
    longest[2050] = 0;
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, longest + 1, "x"), -EINVAL);
    /* As deep as a path can be: one letter a level. */
    for (int i = 0; i < 3072; i += 2) {
        longest[i] = '/';
        longest[i + 1] = 'd';
    }
    longest[3072] = 0;
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, longest, "bottom"), 0);
    CU_ASSERT_EQUAL(get(tool, 0, longest), 0);
    CU_ASSERT_EQUAL(hv_xs_remove(tool, 0, "/d"), 0);
    free(longest);
    teardown();
}

static void a_directory_of_thousands_is_listed_whole(void)
{
    char **names, path[64];
    unsigned n;
    setup();
    for (int i = 0; i < 2000; i++) {
        snprintf(path, sizeof path, "/test/many/entry-%05d", (i * 7919) % 2000);
        CU_ASSERT_EQUAL_FATAL(hv_xs_write(tool, 0, path, ""), 0);
    }
    CU_ASSERT_EQUAL_FATAL(hv_xs_directory(tool, 0, "/test/many", &names, &n), 0);
    CU_ASSERT_EQUAL(n, 2000);
    for (unsigned i = 0; i < n; i++) {
        snprintf(path, sizeof path, "entry-%05u", i);
        CU_ASSERT_STRING_EQUAL_FATAL(names[i], path);
    }
    free(names);
    teardown();
}

static void domains_see_only_what_they_are_given(void)
{
    char path[128];
    setup();
    CU_ASSERT_EQUAL(get(b, 0, a_home), -EACCES);
    snprintf(path, sizeof path, "%s/data/x", a_home);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/x", "secret"), 0);
    CU_ASSERT_EQUAL(get(b, 0, path), -EACCES);
    CU_ASSERT_EQUAL(hv_xs_write(b, 0, path, "forged"), -EACCES);
    CU_ASSERT_EQUAL(hv_xs_remove(b, 0, path), -EACCES);
    CU_ASSERT_EQUAL(hv_xs_set_owner(b, 0, path, hv_own_domid(b_hv), -1), -EACCES);
    snprintf(path, sizeof path, "%s/data/nothing", a_home);
    CU_ASSERT_EQUAL(get(b, 0, path), -EACCES);
    CU_ASSERT_EQUAL(hv_xs_write(b, 0, path, "x"), -EACCES);
    CU_ASSERT_EQUAL(hv_xs_write(b, 0, "/test", "x"), -EACCES);
    /* Given to b to read. */
    snprintf(path, sizeof path, "%s/data/x", a_home);
    CU_ASSERT_EQUAL(hv_xs_set_owner(a, 0, path, hv_own_domid(a_hv), (int)hv_own_domid(b_hv)), 0);
    CU_ASSERT_EQUAL(get(b, 0, path), 0);
    CU_ASSERT_STRING_EQUAL(value, "secret");
    CU_ASSERT_EQUAL(hv_xs_write(b, 0, path, "forged"), -EACCES);
    /* Only the toolstack gives nodes away. */
    CU_ASSERT_EQUAL(hv_xs_set_owner(a, 0, path, hv_own_domid(b_hv), -1), -EPERM);
    CU_ASSERT_EQUAL(hv_xs_set_owner(tool, 0, path, hv_own_domid(b_hv), -1), 0);
    CU_ASSERT_EQUAL(get(a, 0, path), -EACCES);
    CU_ASSERT_EQUAL(hv_xs_write(b, 0, path, "mine"), 0);
    CU_ASSERT_EQUAL(hv_xs_set_owner(a, 0, "name", hv_own_domid(a_hv), -1), -EACCES);
    teardown();
}

static void new_nodes_inherit_permissions(void)
{
    setup();
    unsigned a_id = hv_own_domid(a_hv), b_id = hv_own_domid(b_hv);
    CU_ASSERT_EQUAL(hv_xs_mkdir(tool, 0, "/test/dir"), 0);
    CU_ASSERT_EQUAL(hv_xs_set_owner(tool, 0, "/test/dir", a_id, (int)b_id), 0);
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/dir/by/tool", "1"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "/test/dir/by/a", "2"), 0);
    CU_ASSERT_EQUAL(get(b, 0, "/test/dir/by/tool"), 0);
    CU_ASSERT_EQUAL(get(b, 0, "/test/dir/by/a"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(b, 0, "/test/dir/by/b", "3"), -EACCES);
    teardown();
}

static void a_watch_fires_at_once_and_for_changes_below(void)
{
    setup();
    CU_ASSERT_EQUAL(hv_xs_watch(a, "data", "token one"), 0);
    CU_ASSERT_TRUE(event(a, 1000));
    CU_ASSERT_STRING_EQUAL(event_path, "data");
    CU_ASSERT_STRING_EQUAL(event_token, "token one");
    CU_ASSERT_EQUAL(hv_xs_watch(a, "data", "token one"), -EEXIST);
    CU_ASSERT_FALSE(event(a, 50));
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/below/here", "1"), 0);
    CU_ASSERT_TRUE(event(a, 1000));
    CU_ASSERT_STRING_EQUAL(event_path, "data/below/here");
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "device/elsewhere", "1"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data2", "1"), 0);
    CU_ASSERT_FALSE(event(a, 50));
    CU_ASSERT_EQUAL(hv_xs_watch(a, "data/below/here", "exact"), 0);
    CU_ASSERT_TRUE(event(a, 1000));
    /* Removing the tree tells the watch on a node inside it, too. */
    bool inner = false, outer = false;
    CU_ASSERT_EQUAL(hv_xs_remove(a, 0, "data/below"), 0);
    while (event(a, 100)) {
        inner = inner || !strcmp(event_token, "exact");
        outer = outer || !strcmp(event_path, "data/below");
    }
    CU_ASSERT_TRUE(inner && outer);
    CU_ASSERT_EQUAL(hv_xs_unwatch(a, "data", "token one"), 0);
    CU_ASSERT_EQUAL(hv_xs_unwatch(a, "data", "token one"), -ENOENT);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/below", "1"), 0);
    CU_ASSERT_FALSE(event(a, 50));
    teardown();
}

static void watches_do_not_tell_secrets(void)
{
    setup();
    CU_ASSERT_EQUAL(hv_xs_watch(b, a_home, "spy"), 0);
    CU_ASSERT_EQUAL(hv_xs_watch(b, "/", "everything"), 0);
    CU_ASSERT_EQUAL(hv_xs_watch(b, "@releaseDomain", "deaths"), 0);
    while (event(b, 100))
        ;
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/secret", "1"), 0);
    CU_ASSERT_EQUAL(hv_xs_remove(a, 0, "data/secret"), 0);
    struct hv *c = open_as(HV_GUEST, "c", 0);
    hv_close(c);
    CU_ASSERT_FALSE(event(b, 100));
    CU_ASSERT_EQUAL(hv_xs_write(b, 0, "data/own", "1"), 0);
    CU_ASSERT_TRUE(event(b, 1000));
    CU_ASSERT_STRING_EQUAL(event_token, "everything");
    teardown();
}

static void a_transaction_is_all_or_nothing(void)
{
    hv_xs_tx tx;
    setup();
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/before", "old"), 0);
    CU_ASSERT_EQUAL(hv_xs_watch(a, "data", "w"), 0);
    CU_ASSERT_TRUE(event(a, 1000));
    CU_ASSERT_EQUAL_FATAL(hv_xs_begin(a, &tx), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, tx, "data/one", "1"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, tx, "data/two", "2"), 0);
    CU_ASSERT_EQUAL(get(a, tx, "data/one"), 0);
    CU_ASSERT_STRING_EQUAL(value, "1");
    CU_ASSERT_EQUAL(get(a, 0, "data/one"), -ENOENT);
    CU_ASSERT_FALSE(event(a, 50));
    CU_ASSERT_EQUAL(hv_xs_end(a, tx, true), 0);
    CU_ASSERT_EQUAL(get(a, 0, "data/two"), 0);
    CU_ASSERT_TRUE(event(a, 1000));
    CU_ASSERT_TRUE(event(a, 1000));
    /* Given up: nothing happened. */
    CU_ASSERT_EQUAL_FATAL(hv_xs_begin(a, &tx), 0);
    CU_ASSERT_EQUAL(hv_xs_remove(a, tx, "data/one"), 0);
    CU_ASSERT_EQUAL(get(a, tx, "data/one"), -ENOENT);
    CU_ASSERT_EQUAL(hv_xs_end(a, tx, false), 0);
    CU_ASSERT_EQUAL(get(a, 0, "data/one"), 0);
    CU_ASSERT_EQUAL(hv_xs_end(a, tx, true), -ENOENT);
    /* Its own changes do not disturb it: a child, then its parent, then the parent anew. */
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/parent/child", "1"), 0);
    CU_ASSERT_EQUAL_FATAL(hv_xs_begin(tool, &tx), 0);
    CU_ASSERT_EQUAL(hv_xs_remove(tool, tx, "/test/parent/child"), 0);
    CU_ASSERT_EQUAL(hv_xs_remove(tool, tx, "/test/parent"), 0);
    CU_ASSERT_EQUAL(get(tool, tx, "/test/parent"), -ENOENT);
    CU_ASSERT_EQUAL(hv_xs_write(tool, tx, "/test/parent", "2"), 0);
    CU_ASSERT_EQUAL(hv_xs_end(tool, tx, true), 0);
    CU_ASSERT_EQUAL(get(tool, 0, "/test/parent"), 0);
    CU_ASSERT_STRING_EQUAL(value, "2");
    CU_ASSERT_EQUAL(get(a, 77, "data/one"), -ENOENT);
    teardown();
}

static void a_transaction_whose_ground_moved_is_to_be_done_again(void)
{
    hv_xs_tx tx;
    setup();
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/counter", "5"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/other", "5"), 0);
    /* Read by it, changed by another. */
    CU_ASSERT_EQUAL_FATAL(hv_xs_begin(tool, &tx), 0);
    CU_ASSERT_EQUAL(get(tool, tx, "/test/counter"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/counter", "6"), 0);
    CU_ASSERT_EQUAL(get(tool, tx, "/test/counter"), 0);
    CU_ASSERT_STRING_EQUAL(value, "5");
    CU_ASSERT_EQUAL(hv_xs_write(tool, tx, "/test/counter", "6"), 0);
    CU_ASSERT_EQUAL(hv_xs_end(tool, tx, true), -EAGAIN);
    /* Absent for it, made by another. */
    CU_ASSERT_EQUAL_FATAL(hv_xs_begin(tool, &tx), 0);
    CU_ASSERT_EQUAL(get(tool, tx, "/test/new"), -ENOENT);
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/new", "1"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(tool, tx, "/test/counter", "7"), 0);
    CU_ASSERT_EQUAL(hv_xs_end(tool, tx, true), -EAGAIN);
    /* Listed by it, removed by another. */
    CU_ASSERT_EQUAL_FATAL(hv_xs_begin(tool, &tx), 0);
    CU_ASSERT_EQUAL(hv_xs_remove(tool, tx, "/test"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/other", "6"), 0);
    CU_ASSERT_EQUAL(hv_xs_end(tool, tx, true), -EAGAIN);
    /* Changes elsewhere do not disturb. */
    CU_ASSERT_EQUAL_FATAL(hv_xs_begin(tool, &tx), 0);
    CU_ASSERT_EQUAL(get(tool, tx, "/test/counter"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/other", "7"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/x", "7"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(tool, tx, "/test/counter", "8"), 0);
    CU_ASSERT_EQUAL(hv_xs_end(tool, tx, true), 0);
    CU_ASSERT_EQUAL(get(tool, 0, "/test/counter"), 0);
    CU_ASSERT_STRING_EQUAL(value, "8");
    CU_ASSERT_EQUAL(get(tool, 0, "/test/other"), 0);
    CU_ASSERT_STRING_EQUAL(value, "7");
    teardown();
}

static void a_refused_step_is_not_part_of_a_transaction(void)
{
    hv_xs_tx tx;
    setup();
    CU_ASSERT_EQUAL_FATAL(hv_xs_begin(a, &tx), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, tx, "/forbidden", "1"), -EACCES);
    CU_ASSERT_EQUAL(hv_xs_write(a, tx, "name", "1"), -EACCES);
    CU_ASSERT_EQUAL(hv_xs_write(a, tx, "data/fine", "1"), 0);
    CU_ASSERT_EQUAL(hv_xs_end(a, tx, true), 0);
    CU_ASSERT_EQUAL(get(a, 0, "data/fine"), 0);
    teardown();
}

static void guests_have_quotas_and_the_toolstack_has_none(void)
{
    char path[64], *big = calloc(1, 4000), token[32];
    hv_xs_tx tx[16];
    setup();
    memset(big, 'v', 2048);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/big", big), 0);
    big[2048] = 'v';
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/big", big), -ENOSPC);
    CU_ASSERT_EQUAL(hv_xs_write(tool, 0, "/test/big", big), 0);
    int n = 0, r = 0;
    for (; n < 2000 && !r; n += !r) {
        snprintf(path, sizeof path, "data/n%d", n);
        r = hv_xs_write(a, 0, path, "");
    }
    CU_ASSERT_EQUAL(r, -ENOSPC);
    CU_ASSERT_TRUE(n > 900 && n < 1000);
    /* The quota counts in a transaction and at its commit, too; what is removed is free again. */
    CU_ASSERT_EQUAL_FATAL(hv_xs_begin(a, &tx[0]), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, tx[0], "data/more", ""), -ENOSPC);
    CU_ASSERT_EQUAL(hv_xs_remove(a, tx[0], "data/n0"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, tx[0], "data/more", ""), 0);
    CU_ASSERT_EQUAL(hv_xs_end(a, tx[0], true), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/n0", ""), -ENOSPC);
    CU_ASSERT_EQUAL(hv_xs_remove(a, 0, "data"), 0);
    CU_ASSERT_EQUAL(hv_xs_write(a, 0, "data/n0", ""), 0);
    for (n = 0, r = 0; n < 300 && !r; n += !r) {
        snprintf(token, sizeof token, "t%d", n);
        r = hv_xs_watch(a, "data", token);
    }
    CU_ASSERT_EQUAL(r, -E2BIG);
    CU_ASSERT_EQUAL(n, 128);
    for (n = 0, r = 0; n < 16 && !r; n += !r)
        r = hv_xs_begin(a, &tx[n]);
    CU_ASSERT_EQUAL(r, -ENOSPC);
    CU_ASSERT_EQUAL(n, 10);
    while (n)
        CU_ASSERT_EQUAL(hv_xs_end(a, tx[--n], false), 0);
    free(big);
    teardown();
}

static void random_changes_match_a_simple_model(void)
{
    /* 5 names, 2 levels: a node exists or not and has a value; transactions run against it, some committed. */
    uint64_t seed = unit_seed();
    int model[5][5], saved[5][5];
    char path[64];
    memset(model, -1, sizeof model);
    setup();
    hv_xs_tx tx = 0;
    hv_xs_mkdir(tool, 0, "/test/model");
    for (int step = 0; step < 4000; step++) {
        int i = (int)(unit_random(&seed) % 5), j = (int)(unit_random(&seed) % 5), what = (int)(unit_random(&seed) % 20);
        snprintf(path, sizeof path, "/test/model/%d/%d", i, j);
        if (what < 8) {
            model[i][j] = step;
            CU_ASSERT_EQUAL_FATAL(hv_xs_printf(tool, tx, path, "%d", step), 0);
        } else if (what < 11) {
            model[i][j] = -1;
            int r = hv_xs_remove(tool, tx, path);
            CU_ASSERT_TRUE(r == 0 || r == -ENOENT);
        } else if (what < 12) {
            memset(model[i], -1, sizeof model[i]);
            snprintf(path, sizeof path, "/test/model/%d", i);
            CU_ASSERT_EQUAL_FATAL(hv_xs_remove(tool, tx, path), 0);
        } else if (what < 14 && !tx) {
            memcpy(saved, model, sizeof model);
            CU_ASSERT_EQUAL_FATAL(hv_xs_begin(tool, &tx), 0);
        } else if (what < 15 && tx) {
            bool commit = unit_random(&seed) % 2;
            CU_ASSERT_EQUAL_FATAL(hv_xs_end(tool, tx, commit), 0);
            if (!commit)
                memcpy(model, saved, sizeof model);
            tx = 0;
        } else {
            int r = get(tool, tx, path);
            CU_ASSERT_EQUAL_FATAL(r, model[i][j] < 0 ? -ENOENT : 0);
            if (!r)
                CU_ASSERT_EQUAL_FATAL(atoi(value), model[i][j]);
        }
    }
    if (tx)
        hv_xs_end(tool, tx, false);
    teardown();
}

/* ---- The end of a connection ---- */

static void *wait_for_an_answer(void *xs)
{
    static int r;
    r = get(xs, 0, "domid");
    return &r;
}

/* No call may take the end for an answer: also not the one that was waiting for its own, nor with or without libxenstore's thread. */
static void a_connection_that_ended_is_told_apart_from_every_answer(void)
{
    char dir[] = "/tmp/hvtest.XXXXXX", *old = strdup(getenv("PARALLAX_HYPERVISOR_DIR")), path[64];
    CU_ASSERT_FATAL(mkdtemp(dir) && setenv("PARALLAX_HYPERVISOR_DIR", dir, 1) == 0);
    struct hv *hv = open_as(HV_TOOLSTACK, NULL, 0);
    struct hv_xs *watching, *plain, *waiting;
    CU_ASSERT_FATAL(!hv_xs_open(hv, &watching) && !hv_xs_open(hv, &plain) && !hv_xs_open(hv, &waiting));
    CU_ASSERT_FATAL(!hv_xs_watch(watching, "/local", "w") && !hv_xs_watch(waiting, "/local", "w"));
    CU_ASSERT(event(watching, 5000));
    CU_ASSERT_EQUAL(get(plain, 0, "@no"), -EINVAL); /* an answer */
    snprintf(path, sizeof path, "%s/hypervisor.pid", dir);
    FILE *f = fopen(path, "r");
    int pid = 0;
    CU_ASSERT_FATAL(f && fscanf(f, "%d", &pid) == 1 && pid > 1);
    fclose(f);
    pthread_t thread;
    void *r;
    kill(pid, SIGSTOP); /* so that it takes the question and gives no answer */
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, wait_for_an_answer, waiting), 0);
    usleep(100000);
    kill(pid, SIGKILL);
    pthread_join(thread, &r);
    CU_ASSERT_EQUAL(*(int *)r, -EPIPE);
    char *p, *token, **names;
    hv_xs_tx tx;
    for (unsigned i = 0; i < 2; i++) {
        struct hv_xs *xs = i ? plain : watching;
        CU_ASSERT_EQUAL(get(xs, 0, "domid"), -EPIPE);
        CU_ASSERT_EQUAL(hv_xs_write(xs, 0, "data", ""), -EPIPE);
        CU_ASSERT_EQUAL(hv_xs_remove(xs, 0, "data"), -EPIPE);
        CU_ASSERT_EQUAL(hv_xs_directory(xs, 0, "data", &names, NULL), -EPIPE);
        CU_ASSERT_EQUAL(hv_xs_begin(xs, &tx), -EPIPE);
        CU_ASSERT_EQUAL(hv_xs_watch(xs, "/local", "x"), -EPIPE);
        CU_ASSERT_EQUAL(hv_xs_check_watch(xs, &p, &token), -EPIPE);
    }
    CU_ASSERT_EQUAL(hv_xs_open(hv, &(struct hv_xs *){ NULL }), -EPIPE);
    hv_xs_close(watching);
    hv_xs_close(plain);
    hv_xs_close(waiting);
    hv_close(hv);
    setenv("PARALLAX_HYPERVISOR_DIR", old, 1);
    free(old);
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    CU_ASSERT_EQUAL(system(command), 0);
}

int main(int argc, char **argv)
{
    return with_own_hypervisor(argc, argv, "xenstore", (struct unit_test[]){
        UNIT(a_domain_finds_its_home),
        UNIT(nodes_are_written_read_listed_and_removed),
        UNIT(malformed_paths_are_refused),
        UNIT(a_directory_of_thousands_is_listed_whole),
        UNIT(domains_see_only_what_they_are_given),
        UNIT(new_nodes_inherit_permissions),
        UNIT(a_watch_fires_at_once_and_for_changes_below),
        UNIT(watches_do_not_tell_secrets),
        UNIT(a_transaction_is_all_or_nothing),
        UNIT(a_transaction_whose_ground_moved_is_to_be_done_again),
        UNIT(a_refused_step_is_not_part_of_a_transaction),
        UNIT(guests_have_quotas_and_the_toolstack_has_none),
        UNIT(random_changes_match_a_simple_model),
        UNIT(a_connection_that_ended_is_told_apart_from_every_answer),
        { 0 },
    });
}
