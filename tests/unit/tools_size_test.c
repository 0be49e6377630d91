/* tools_size_test.c - sizes, data ranges and places of sockets, as the programs share them. */
#include "tests/support/unit.h"
#include "control/place.h"
#include "tools/common/size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t parse(const char *text)
{
    uint64_t bytes = UINT64_MAX;
    struct error err = ERROR_NONE;
    return size_parse("size", text, &bytes, &err) ? UINT64_MAX : bytes;
}

static void sizes_are_bytes_or_powers_of_1024(void)
{
    CU_ASSERT_EQUAL(parse("0"), 0);
    CU_ASSERT_EQUAL(parse("512"), 512);
    CU_ASSERT_EQUAL(parse("512B"), 512);
    CU_ASSERT_EQUAL(parse("1K"), 1024);
    CU_ASSERT_EQUAL(parse("1k"), 1024);
    CU_ASSERT_EQUAL(parse("3KiB"), 3072);
    CU_ASSERT_EQUAL(parse("10M"), 10u << 20);
    CU_ASSERT_EQUAL(parse("1G"), 1ull << 30);
    CU_ASSERT_EQUAL(parse("2TiB"), 2ull << 40);
    CU_ASSERT_EQUAL(parse("1P"), 1ull << 50);
    CU_ASSERT_EQUAL(parse("9223372036854775807"), INT64_MAX);
}

static void fractions_are_rounded_up_to_512(void)
{
    CU_ASSERT_EQUAL(parse("1.5G"), 3ull << 29);
    CU_ASSERT_EQUAL(parse("0.5K"), 512);
    CU_ASSERT_EQUAL(parse("1.3G"), ((uint64_t)(1.3 * (1ull << 30)) + 511) / 512 * 512);
    CU_ASSERT_EQUAL(parse("1.0"), 1);
    CU_ASSERT_EQUAL(parse("0.000000001K"), 0);
}

static void what_is_no_size_is_refused(void)
{
    const char *bad[] = { "", "-1", "-5G", "G", "1X", "1GX", "1Gi", "1 G", "1.5", "1.", ".", ".5G", "0x10", "1e9", "9223372036854775808",
                          "99999999999999999999999", "8192P", "16384P", "18446744073709551616", "1..5G", "1.5.5G", "\xff", "1\n" };
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct error err = ERROR_NONE;
        uint64_t bytes = 77;
        CU_ASSERT_EQUAL(size_parse("size", bad[i], &bytes, &err), -EINVAL);
        CU_ASSERT_EQUAL(bytes, 77);
        CU_ASSERT_TRUE(*err.text);
    }
}

static void gigabytes_are_refused_with_a_hint(void)
{
    struct error err = ERROR_NONE;
    uint64_t bytes;
    CU_ASSERT_EQUAL(size_parse("size", "10GB", &bytes, &err), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "GiB"));
    err = (struct error)ERROR_NONE;
    CU_ASSERT_EQUAL(size_parse("size", "10mb", &bytes, &err), -EINVAL);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "MiB"));
}

static void sizes_are_printed_for_people(void)
{
    char out[SIZE_TEXT_MAX];
    CU_ASSERT_STRING_EQUAL(size_format(0, out), "0 B");
    CU_ASSERT_STRING_EQUAL(size_format(1023, out), "1023 B");
    CU_ASSERT_STRING_EQUAL(size_format(1024, out), "1 KiB");
    CU_ASSERT_STRING_EQUAL(size_format(1536, out), "1.5 KiB");
    CU_ASSERT_STRING_EQUAL(size_format(10ull << 30, out), "10 GiB");
    CU_ASSERT_STRING_EQUAL(size_format(UINT64_MAX, out), "16384.0 PiB");
}

static void what_is_printed_can_be_parsed_again(void)
{
    uint64_t seed = unit_seed();
    for (int i = 0; i < 10000; i++) {
        char out[SIZE_TEXT_MAX], *space;
        uint64_t bytes = (unit_random(&seed) >> 11) >> (unit_random(&seed) % 53);
        unsigned shift = 10 * (unsigned)(unit_random(&seed) % 2);
        bytes = bytes >> shift << shift;
        size_format(bytes, out);
        if (strchr(out, '.'))
            continue;
        space = strchr(out, ' ');
        memmove(space, space + 1, strlen(space));
        CU_ASSERT_EQUAL(parse(out), bytes);
    }
}

/* ---- Places ---- */

static void two_names_of_one_store_have_one_key(void)
{
    char directory[] = "/tmp/place.XXXXXX", url[128], one[PLACE_MAX], two[PLACE_MAX], link[64];
    struct error err = ERROR_NONE;
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
    snprintf(link, sizeof link, "%s.link", directory);
    CU_ASSERT_EQUAL(symlink(directory, link), 0);
    CU_ASSERT_EQUAL(place_store_key(directory, one, &err), 0);
    snprintf(url, sizeof url, "file:%s/./?device=/dev/x", link);
    CU_ASSERT_EQUAL(place_store_key(url, two, &err), 0);
    CU_ASSERT_STRING_EQUAL(one, two);
    unlink(link);
    rmdir(directory);
}

static void a_name_too_long_is_an_error(void)
{
    char name[2000], key[PLACE_MAX];
    struct error err = ERROR_NONE;
    memset(name, 'd', sizeof name - 1);
    name[0] = '/';
    name[sizeof name - 1] = '\0';
    CU_ASSERT_NOT_EQUAL(place_store_key(name, key, &err), 0);
    CU_ASSERT_TRUE(*err.text);
    err = (struct error)ERROR_NONE;
    CU_ASSERT_NOT_EQUAL(place_store_key("file:", key, &err), 0);
}

static void a_socket_of_the_operators_choice_is_found_through_the_store(void)
{
    char directory[] = "/tmp/place.XXXXXX", key[PLACE_MAX], path[PLACE_MAX], found[PLACE_CANDIDATES][PLACE_MAX];
    struct error err = ERROR_NONE;
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(directory));
    CU_ASSERT_EQUAL(place_store_key(directory, key, &err), 0);
    CU_ASSERT_EQUAL(place_socket_to_serve(key, "/tmp/elsewhere.sock", path, &err), 0);
    CU_ASSERT_TRUE(place_socket_candidates(key, found) >= 2);
    CU_ASSERT_STRING_EQUAL(found[0], "/tmp/elsewhere.sock");
    place_forget_socket(key);
    CU_ASSERT_TRUE(place_socket_candidates(key, found) >= 2);
    CU_ASSERT_STRING_NOT_EQUAL(found[0], "/tmp/elsewhere.sock");
    rmdir(directory);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "tools", (struct unit_test[]){
        UNIT(sizes_are_bytes_or_powers_of_1024),
        UNIT(fractions_are_rounded_up_to_512),
        UNIT(what_is_no_size_is_refused),
        UNIT(gigabytes_are_refused_with_a_hint),
        UNIT(sizes_are_printed_for_people),
        UNIT(what_is_printed_can_be_parsed_again),
        UNIT(two_names_of_one_store_have_one_key),
        UNIT(a_name_too_long_is_an_error),
        UNIT(a_socket_of_the_operators_choice_is_found_through_the_store),
        { 0 },
    });
}
