/* engine_inside.c - see engine_inside.h. Apart from the oracle's files: they have words of their own for the same things. */
#include "tests/support/engine_inside.h"

#include "parallax/checkpoint.h"

struct engine_inside engine_inside(const struct store *s)
{
    const struct checkpoint *c = s->checkpoint;
    struct engine_inside in = { .checkpoint = c->state == CHECKPOINT_RUNNING,
                                .wrap = s->journal.tail / s->super.journal_blocks != s->journal.next_seq / s->super.journal_blocks,
                                .journal_tail = s->journal.tail, .journal_next = s->journal.next_seq, .journal_blocks = s->super.journal_blocks };
    for (uint32_t i = 0; in.checkpoint && i < c->deletion_count; i++)
        in.relink |= c->deletions[i].child != NULL;
    return in;
}
