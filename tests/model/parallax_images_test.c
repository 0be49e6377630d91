/* parallax_images_test.c - the engine under random operations, against an oracle.
 *
 * Images of all sizes, many requests in flight, operations among them, checkpoints at every turn (small indexes), orderly and
 * disorderly ends; whatever is read must be what was written, and what is deleted must come back to the last block.
 * SEED repeats a run (up to the timing of threads); STEPS sets its length. */
#include "tests/support/engine.h"
#include "tests/support/unit.h"

static void begin(struct engine *e, const char *test, uint64_t store_bytes, uint32_t index_entries)
{
    engine_where = (struct engine_where){ test, unit_seed(), 0 };
    engine_start(e, engine_where.seed, store_bytes, index_entries);
}

static void session(const char *test, uint32_t index_entries, bool overlap)
{
    struct engine e;
    begin(&e, test, 1ull << 30, index_entries);
    e.overlap = overlap;
    for (uint64_t steps = unit_number("STEPS", 8000); steps; steps--) {
        engine_step(&e);
        if (world_chance(&e.world, 600))
            engine_reopen(&e);
        if (world_chance(&e.world, 600))
            engine_crash(&e, CONTENT_KILL, 0);
    }
    engine_drain(&e);
    engine_verify_all(&e, false);
    engine_check(&e);
    engine_delete_all(&e);
    printf("# %llu requests, %llu operations, %llu KiB shared, %llu kills\n", (unsigned long long)e.finished_ios, (unsigned long long)e.finished_tasks, (unsigned long long)e.shared_bytes / 1024,
           (unsigned long long)e.crashes);
    engine_end(&e);
}

static void random_operations_with_tiny_indexes_match_the_oracle(void) { session(__func__, 256, false); }
static void random_operations_match_the_oracle(void) { session(__func__, 4096, false); }
static void writes_that_meet_in_flight_take_effect_in_the_order_of_submission(void) { session(__func__, 1024, true); }

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(random_operations_with_tiny_indexes_match_the_oracle),
        UNIT(random_operations_match_the_oracle),
        UNIT(writes_that_meet_in_flight_take_effect_in_the_order_of_submission),
        { 0 },
    };
    return unit_main(argc, argv, "parallax images", tests);
}
