/* find_block FILE RAW N: the number of the first block of FILE that is the same as block N of RAW; status 1: there is none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096u

int main(int argc, char **argv)
{
    unsigned char wanted[BLOCK], block[BLOCK];
    FILE *file = argc == 4 ? fopen(argv[1], "rb") : NULL, *raw = argc == 4 ? fopen(argv[2], "rb") : NULL;
    if (!file || !raw || fseek(raw, strtol(argv[3], NULL, 10) * (long)BLOCK, SEEK_SET) || fread(wanted, BLOCK, 1, raw) != 1)
        return 2;
    for (unsigned long n = 0; fread(block, BLOCK, 1, file) == 1; n++)
        if (!memcmp(block, wanted, BLOCK)) {
            printf("%lu\n", n);
            return 0;
        }
    return 1;
}
