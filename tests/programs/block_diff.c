/* block_diff A B: how two raw images differ, in blocks of 4096 bytes: "moved N new M": N blocks of B that are not zero differ
 * from A's at the same offset; M of those have a content that stands nowhere in A (each content counted once). */
#include "base/hash.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096u

struct blocks {
    uint64_t *hash;
    size_t count;
};

static struct blocks load(const char *path)
{
    struct blocks b = { malloc(sizeof *b.hash * (1u << 20)), 0 };
    unsigned char block[BLOCK];
    FILE *f = fopen(path, "rb");
    static const unsigned char zero[BLOCK];
    size_t n;
    if (!f || !b.hash) {
        perror(path);
        exit(2);
    }
    while (b.count < 1u << 20 && (n = fread(block, 1, BLOCK, f)) > 0) {
        memset(block + n, 0, BLOCK - n);
        b.hash[b.count++] = memcmp(block, zero, BLOCK) ? hash_bytes(block, BLOCK) | 1 : 0;
    }
    fclose(f);
    return b;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    struct blocks a = load(argv[1]), b = load(argv[2]), fresh = { malloc(sizeof(uint64_t) * (b.count + 1)), 0 };
    size_t moved = 0, contents = 0;
    for (size_t i = 0; i < b.count; i++)
        if (b.hash[i] && (i >= a.count || a.hash[i] != b.hash[i])) {
            moved++;
            fresh.hash[fresh.count++] = b.hash[i];
        }
    qsort(a.hash, a.count, sizeof *a.hash, compare);
    qsort(fresh.hash, fresh.count, sizeof *fresh.hash, compare);
    for (size_t i = 0; i < fresh.count; i++)
        contents += (!i || fresh.hash[i] != fresh.hash[i - 1]) && !bsearch(&fresh.hash[i], a.hash, a.count, sizeof *a.hash, compare);
    printf("moved %zu new %zu\n", moved, contents);
    return 0;
}
