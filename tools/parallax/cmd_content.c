/* cmd_content.c - digest, verify, dedup: commands about what blocks hold; cmd_check.c has them in its table. */
#include "tools/parallax/content.h"

#include "tools/common/size.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define DIGEST_DIGITS 64u

/* whole: also what the daemon knows already is read. */
static int get_digest(struct cli *cli, const char *target, bool whole, json_t **result)
{
    int status = cli_call(cli, json_pack("{s:s,s:s,s:b}", "command", "digest", "target", target, "whole", whole), NULL, NULL, result);
    if (status == EXIT_DONE)
        json_object_set_new(*result, "name", json_string(target));
    return status;
}

int content_digest(struct cli *cli, const struct args *a)
{
    json_t *result = NULL;
    int status = get_digest(cli, a->words[0], false, &result);
    if (status == EXIT_DONE && !cli_json(cli, result))
        printf("%s  %s\n", json_text(result, "digest"), a->words[0]);
    json_decref(result);
    return status;
}

int content_verify(struct cli *cli, const struct args *a)
{
    const char *name = a->words[0], *wanted = a->words[1];
    json_t *result = NULL;
    if (strlen(wanted) != DIGEST_DIGITS || strspn(wanted, "0123456789abcdefABCDEF") != DIGEST_DIGITS)
        return cli_usage(a, "'%.80s' is no digest: %u hexadecimal digits, as 'parallax digest' prints them", wanted, DIGEST_DIGITS);
    int status = get_digest(cli, name, true, &result);
    if (status != EXIT_DONE)
        return status;
    bool same = strcasecmp(json_text(result, "digest"), wanted) == 0;
    json_object_set_new(result, "verified", json_boolean(same));
    if (!cli_json(cli, result) && same)
        cli_say(cli, "%s has that digest", name);
    if (!same)
        status = cli_fail_text("'%.250s' has another content: its digest is %s", name, json_text(result, "digest"));
    json_decref(result);
    return status;
}

int content_dedup(struct cli *cli, const struct args *a)
{
    char shared[SIZE_TEXT_MAX], examined[SIZE_TEXT_MAX];
    json_t *result = NULL;
    int status = cli_call(cli, json_pack("{s:s,s:s}", "command", "dedup", "name", a->words[0]), NULL, NULL, &result);
    if (status == EXIT_DONE) {
        json_object_set_new(result, "name", json_string(a->words[0]));
        cli_done(cli, result, "%s: %s of %s are now shared", a->words[0], json_size(result, "shared", shared), json_size(result, "examined", examined));
    }
    json_decref(result);
    return status;
}
