/* hypervisor_grants_test.c - grants of the embedded hypervisor are checked as Xen checks them. */
#include "tests/unit/hypervisor_test.h"

#include "hypervisor/local/wire.h"

#include <stdatomic.h>

static void a_granted_page_is_shared_memory(void)
{
    struct pair p = open_pair(16);
    char *page = hv_arena_alloc(p.guest, 1);
    hv_gref ref;
    void *seen;
    CU_ASSERT_PTR_NOT_NULL_FATAL(page);
    strcpy(page, "from the guest");
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, p.backend_id, page, false, &ref), 0);
    CU_ASSERT_TRUE(ref != 0);
    CU_ASSERT_EQUAL_FATAL(hv_grant_map(p.backend_ports, p.guest_id, &ref, 1, true, &seen), 0);
    CU_ASSERT_STRING_EQUAL(seen, "from the guest");
    strcpy(seen, "from the backend");
    CU_ASSERT_STRING_EQUAL(page, "from the backend");
    CU_ASSERT_EQUAL(hv_grant_unmap(p.backend_ports, seen, 1), 0);
    CU_ASSERT_EQUAL(hv_grant_unmap(p.backend_ports, seen, 1), -EINVAL);
    CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, ref), 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, ref), -EINVAL);
    close_pair(&p);
}

static void scattered_pages_are_mapped_at_consecutive_addresses(void)
{
    struct pair p = open_pair(32);
    uint8_t *pages = hv_arena_alloc(p.guest, 8), *map;
    hv_gref refs[4];
    static const int order[4] = { 6, 1, 1, 3 };
    for (int i = 0; i < 8; i++)
        memset(pages + i * 4096, 'a' + i, 4096);
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, p.backend_id, pages + order[i] * 4096, false, &refs[i]), 0);
    CU_ASSERT_EQUAL_FATAL(hv_grant_map(p.backend_ports, p.guest_id, refs, 4, true, (void **)&map), 0);
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(map[i * 4096 + 4095], 'a' + order[i]);
    map[2 * 4096] = 'z';
    CU_ASSERT_EQUAL(pages[4096], 'z');
    CU_ASSERT_EQUAL(hv_grant_unmap(p.backend_ports, map, 4), 0);
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, refs[i]), 0);
    close_pair(&p);
}

static void mapping_is_all_or_nothing(void)
{
    struct pair p = open_pair(8);
    uint8_t *pages = hv_arena_alloc(p.guest, 3);
    hv_gref refs[3];
    void *map = NULL;
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, p.backend_id, pages + i * 4096, i == 2, &refs[i]), 0);
    CU_ASSERT_EQUAL(hv_grant_map(p.backend_ports, p.guest_id, refs, 3, true, &map), -EACCES);
    CU_ASSERT_PTR_NULL(map);
    /* Nothing is left in use by the failed attempt. */
    for (int i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, refs[i]), 0);
    close_pair(&p);
}

static void a_grant_to_another_domain_is_refused(void)
{
    struct pair p = open_pair(8);
    struct hv *other = open_as(HV_GUEST, "other", 8);
    struct hv_ports *other_ports;
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(other, &other_ports), 0);
    uint8_t *pages = hv_arena_alloc(p.guest, 2);
    hv_gref ref, own;
    void *map;
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, p.backend_id, pages, false, &ref), 0);
    CU_ASSERT_EQUAL(hv_grant_map(other_ports, p.guest_id, &ref, 1, false, &map), -EACCES);
    /* Even once the guest has named that domain, each grant is for the one domain it names. */
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, hv_own_domid(other), pages + 4096, false, &own), 0);
    CU_ASSERT_EQUAL(hv_grant_map(other_ports, p.guest_id, &ref, 1, false, &map), -EACCES);
    CU_ASSERT_EQUAL(hv_grant_map(other_ports, p.guest_id, &own, 1, false, &map), 0);
    CU_ASSERT_EQUAL(hv_grant_map(other_ports, 9999, &ref, 1, false, &map), -ENOENT);
    CU_ASSERT_EQUAL(hv_grant_share(p.guest, 9999, pages, false, &own), -ENOENT);
    hv_ports_close(other_ports);
    hv_close(other);
    close_pair(&p);
}

static void a_revoked_grant_is_refused(void)
{
    struct pair p = open_pair(8);
    void *page = hv_arena_alloc(p.guest, 1), *map;
    char buffer[16];
    hv_gref ref;
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, p.backend_id, page, false, &ref), 0);
    CU_ASSERT_EQUAL_FATAL(hv_grant_unshare(p.guest, ref), 0);
    CU_ASSERT_EQUAL(hv_grant_map(p.backend_ports, p.guest_id, &ref, 1, false, &map), -EACCES);
    struct hv_copy c = { .dom = p.guest_id, .ref = ref, .length = 16, .local = buffer };
    CU_ASSERT_EQUAL(hv_grant_copy(p.backend_ports, &c, 1), 0);
    CU_ASSERT_EQUAL(c.status, -EACCES);
    close_pair(&p);
}

static void a_read_only_grant_is_not_writable(void)
{
    struct pair p = open_pair(8);
    char *page = hv_arena_alloc(p.guest, 1), buffer[16] = "x";
    void *map;
    hv_gref ref;
    strcpy(page, "fixed");
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, p.backend_id, page, true, &ref), 0);
    CU_ASSERT_EQUAL(hv_grant_map(p.backend_ports, p.guest_id, &ref, 1, true, &map), -EACCES);
    struct hv_copy c = { .dom = p.guest_id, .ref = ref, .length = 6, .local = buffer, .to_guest = true };
    CU_ASSERT_EQUAL(hv_grant_copy(p.backend_ports, &c, 1), 0);
    CU_ASSERT_EQUAL(c.status, -EACCES);
    CU_ASSERT_STRING_EQUAL(page, "fixed");
    c.to_guest = false;
    hv_grant_copy(p.backend_ports, &c, 1);
    CU_ASSERT_EQUAL(c.status, 0);
    CU_ASSERT_STRING_EQUAL(buffer, "fixed");
    CU_ASSERT_EQUAL_FATAL(hv_grant_map(p.backend_ports, p.guest_id, &ref, 1, false, &map), 0);
    CU_ASSERT_STRING_EQUAL(map, "fixed");
    /* The processor refuses to write, not only we. */
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)map = 1;
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    CU_ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CU_ASSERT_EQUAL(hv_grant_unmap(p.backend_ports, map, 1), 0);
    close_pair(&p);
}

/* The guest's own grant table, found by the name of its memory: a hostile guest writes it as it likes. */
static struct grant_entry *own_table(void)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    unsigned long start = 0, found = 0;
    while (fgets(line, sizeof line, f))
        if (strstr(line, "parallax-grants") && sscanf(line, "%lx", &start) == 1 && !found)
            found = start;
    fclose(f);
    return (struct grant_entry *)found;
}

static void references_and_frames_out_of_range_are_refused(void)
{
    struct hv *guest = open_as(HV_GUEST, "guest", 8);
    struct grant_entry *table = own_table();
    struct hv *backend = open_as(HV_NAMED, "storage", 0);
    struct hv_ports *ports;
    CU_ASSERT_EQUAL_FATAL(hv_ports_open(backend, &ports), 0);
    hv_domid g = hv_own_domid(guest), b = hv_own_domid(backend);
    void *page = hv_arena_alloc(guest, 1), *map;
    hv_gref ref, bad[] = { 0, 1, 7, 511, 512, 100000, UINT32_MAX };
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(guest, b, page, false, &ref), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CU_ASSERT_TRUE(hv_grant_map(ports, g, &bad[i], 1, false, &map) < 0);
    CU_ASSERT_EQUAL(hv_grant_map(ports, g, &(hv_gref){ UINT32_MAX }, 1, false, &map), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(table);
    static const uint32_t frames[] = { 8, 9, 1u << 20, UINT32_MAX };
    for (size_t i = 0; i < 4; i++) {
        table[ref].frame = frames[i];
        CU_ASSERT_EQUAL(hv_grant_map(ports, g, &ref, 1, true, &map), -EINVAL);
    }
    table[ref].frame = 7;
    CU_ASSERT_EQUAL(hv_grant_map(ports, g, &ref, 1, true, &map), 0);
    CU_ASSERT_EQUAL(hv_grant_unmap(ports, map, 1), 0);
    table[ref].head |= GRANT_SUB_PAGE;
    CU_ASSERT_EQUAL(hv_grant_map(ports, g, &ref, 1, true, &map), -EACCES);
    table[ref].head = (table[ref].head & ~(GRANT_SUB_PAGE | GRANT_TYPE_MASK)) | 3;
    CU_ASSERT_EQUAL(hv_grant_map(ports, g, &ref, 1, true, &map), -EACCES);
    CU_ASSERT_EQUAL(hv_grant_share(guest, b, (char *)page + 1, false, &ref), -EINVAL);
    CU_ASSERT_EQUAL(hv_grant_share(guest, b, (char *)page + 8 * 4096, false, &ref), -EINVAL);
    hv_ports_close(ports);
    hv_close(guest);
    hv_close(backend);
}

static void a_mapped_grant_cannot_be_taken_back(void)
{
    struct pair p = open_pair(8);
    void *page = hv_arena_alloc(p.guest, 1), *a, *b, *c;
    hv_gref ref;
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, p.backend_id, page, false, &ref), 0);
    CU_ASSERT_EQUAL_FATAL(hv_grant_map(p.backend_ports, p.guest_id, &ref, 1, true, &a), 0);
    CU_ASSERT_EQUAL_FATAL(hv_grant_map(p.backend_ports, p.guest_id, &ref, 1, false, &b), 0);
    CU_ASSERT_EQUAL_FATAL(hv_grant_map(p.backend_ports, p.guest_id, &ref, 1, true, &c), 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, ref), -EBUSY);
    CU_ASSERT_EQUAL(hv_grant_unmap(p.backend_ports, a, 1), 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, ref), -EBUSY);
    CU_ASSERT_EQUAL(hv_grant_unmap(p.backend_ports, c, 1), 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, ref), -EBUSY);
    CU_ASSERT_EQUAL(hv_grant_unmap(p.backend_ports, b, 1), 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, ref), 0);
    close_pair(&p);
}

static void each_segment_of_a_copy_has_its_own_status(void)
{
    struct pair p = open_pair(8);
    char *pages = hv_arena_alloc(p.guest, 2), in[4096], out[4096];
    hv_gref rw, ro;
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, p.backend_id, pages, false, &rw), 0);
    CU_ASSERT_EQUAL_FATAL(hv_grant_share(p.guest, p.backend_id, pages + 4096, true, &ro), 0);
    memset(out, 'o', sizeof out);
    memset(pages + 4096, 'r', 4096);
    struct hv_copy c[] = {
        { .dom = p.guest_id, .ref = rw, .offset = 512, .length = 1024, .local = out, .to_guest = true },
        { .dom = p.guest_id, .ref = ro, .offset = 0, .length = 512, .local = out, .to_guest = true },
        { .dom = p.guest_id, .ref = ro, .offset = 4095, .length = 1, .local = in },
        { .dom = p.guest_id, .ref = rw, .offset = 4095, .length = 2, .local = in },
        { .dom = p.guest_id, .ref = rw, .offset = 65535, .length = 65535, .local = in },
        { .dom = p.guest_id, .ref = 12345678, .offset = 0, .length = 1, .local = in },
        { .dom = 4242, .ref = rw, .offset = 0, .length = 1, .local = in },
        { .dom = p.guest_id, .ref = rw, .offset = 0, .length = 4096, .local = in },
    };
    static const int expected[] = { 0, -EACCES, 0, -EINVAL, -EINVAL, -EINVAL, -ENOENT, 0 };
    CU_ASSERT_EQUAL(hv_grant_copy(p.backend_ports, c, 8), 0);
    for (int i = 0; i < 8; i++)
        CU_ASSERT_EQUAL(c[i].status, expected[i]);
    CU_ASSERT_TRUE(pages[511] == 0 && pages[512] == 'o' && pages[1535] == 'o' && pages[1536] == 0);
    CU_ASSERT_EQUAL(memcmp(in, pages, 4096), 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, rw), 0);
    CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, ro), 0);
    close_pair(&p);
}

static void the_arena_gives_whole_zeroed_runs_until_it_is_used_up(void)
{
    struct hv *g = open_as(HV_GUEST, "guest", 10);
    char *a = hv_arena_alloc(g, 4), *b = hv_arena_alloc(g, 4), *c = hv_arena_alloc(g, 2);
    CU_ASSERT_TRUE(a && b && c);
    CU_ASSERT_PTR_NULL(hv_arena_alloc(g, 1));
    CU_ASSERT_PTR_NULL(hv_arena_alloc(g, 0));
    memset(b, 1, 4 * 4096);
    hv_arena_free(g, b, 4);
    CU_ASSERT_PTR_NULL(hv_arena_alloc(g, 5));
    char *d = hv_arena_alloc(g, 3);
    CU_ASSERT_TRUE(d && d[0] == 0 && d[3 * 4096 - 1] == 0);
    hv_close(g);
}

static void the_grant_table_fills_up_and_empties(void)
{
    struct pair p = open_pair(4);
    void *page = hv_arena_alloc(p.guest, 1);
    hv_gref refs[1000];
    int n = 0, r;
    while ((r = hv_grant_share(p.guest, p.backend_id, page, false, &refs[n])) == 0)
        n++;
    CU_ASSERT_EQUAL(r, -ENOSPC);
    CU_ASSERT_EQUAL(n, 504);
    while (n)
        CU_ASSERT_EQUAL(hv_grant_unshare(p.guest, refs[--n]), 0);
    CU_ASSERT_EQUAL(hv_grant_share(p.guest, p.backend_id, page, false, &refs[0]), 0);
    close_pair(&p);
}

int main(int argc, char **argv)
{
    return with_own_hypervisor(argc, argv, "grants", (struct unit_test[]){
        UNIT(a_granted_page_is_shared_memory),
        UNIT(scattered_pages_are_mapped_at_consecutive_addresses),
        UNIT(mapping_is_all_or_nothing),
        UNIT(a_grant_to_another_domain_is_refused),
        UNIT(a_revoked_grant_is_refused),
        UNIT(a_read_only_grant_is_not_writable),
        UNIT(references_and_frames_out_of_range_are_refused),
        UNIT(a_mapped_grant_cannot_be_taken_back),
        UNIT(each_segment_of_a_copy_has_its_own_status),
        UNIT(the_arena_gives_whole_zeroed_runs_until_it_is_used_up),
        UNIT(the_grant_table_fills_up_and_empties),
        { 0 },
    });
}
