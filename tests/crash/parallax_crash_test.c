/* parallax_crash_test.c - kill -9 and power cuts at random moments of random work.
 *
 * After every crash the store must open by itself; kept must be what was acknowledged (kill) or flushed (power cut); every
 * block is one of the whole versions it may be; operations under way happened wholly or not at all; the checker finds
 * nothing. Some crashes hit the recovery from another one.
 * SEED repeats a run (up to the timing of threads); STEPS sets its length. */
#include "tests/support/engine.h"
#include "tests/support/unit.h"

static void begin(struct engine *e, const char *test, uint64_t store_bytes, uint32_t index_entries)
{
    engine_where = (struct engine_where){ test, unit_seed(), 0 };
    engine_start(e, engine_where.seed, store_bytes, index_entries);
}

static void end(struct engine *e)
{
    engine_delete_all(e);
    printf("# %llu requests, %llu operations, %llu KiB shared, %llu crashes\n", (unsigned long long)e->finished_ios, (unsigned long long)e->finished_tasks, (unsigned long long)e->shared_bytes / 1024,
           (unsigned long long)e->crashes);
    engine_end(e);
}

static enum content_crash random_kind(struct engine *e) { return world_chance(&e->world, 2) ? CONTENT_KILL : CONTENT_POWER_CUT; }

/* Between two turns of the loop, with whatever is then in flight. */
static void crash_between_turns(const char *test, uint32_t index_entries, bool kills, bool power_cuts, bool overlap)
{
    struct engine e;
    begin(&e, test, 1ull << 30, index_entries);
    e.overlap = overlap;
    for (uint64_t steps = unit_number("STEPS", 2500); steps; steps--) {
        engine_step(&e);
        if (world_chance(&e.world, 60))
            engine_crash(&e, kills && power_cuts ? random_kind(&e) : kills ? CONTENT_KILL : CONTENT_POWER_CUT, 0);
    }
    end(&e);
}

static void a_kill_loses_nothing_that_was_acknowledged(void) { crash_between_turns(__func__, 512, true, false, true); }
static void a_power_cut_loses_nothing_that_was_flushed(void) { crash_between_turns(__func__, 512, false, true, true); }
static void kills_and_power_cuts_in_turn_lose_nothing(void) { crash_between_turns(__func__, 4096, true, true, false); }

/* At an I/O of the device: also in the middle of a checkpoint, a deletion, an orderly end. */
static void crash_at_writes(const char *test, uint64_t store_bytes, uint32_t index_entries, bool recovery_too)
{
    struct engine e;
    begin(&e, test, store_bytes, index_entries);
    e.may_fill = store_bytes < 1ull << 30;
    for (uint64_t steps = unit_number("STEPS", 2000); steps; steps--) {
        if (e.armed_writes == ENGINE_NEVER && world_chance(&e.world, 4))
            engine_arm_crash(&e, random_kind(&e), world_random(&e.world, 1ull << world_random(&e.world, 9)));
        engine_step(&e);
        if (!engine_is_dead(&e) && world_chance(&e.world, 200))
            engine_reopen(&e);
        if (engine_is_dead(&e))
            engine_crash(&e, random_kind(&e), recovery_too ? (unsigned)world_random(&e.world, 4) : 0);
    }
    engine_crash(&e, random_kind(&e), 0);
    end(&e);
}

static void a_crash_at_any_device_write_loses_nothing(void) { crash_at_writes(__func__, 1ull << 30, 300, false); }
static void crashes_of_the_recovery_itself_lose_nothing(void) { crash_at_writes(__func__, 1ull << 30, 1024, true); }
static void crashes_of_a_small_store_whose_journal_wraps_lose_nothing(void) { crash_at_writes(__func__, 96ull << 20, 0, true); }

int main(int argc, char **argv)
{
    static const struct unit_test tests[] = {
        UNIT(a_kill_loses_nothing_that_was_acknowledged),
        UNIT(a_power_cut_loses_nothing_that_was_flushed),
        UNIT(kills_and_power_cuts_in_turn_lose_nothing),
        UNIT(a_crash_at_any_device_write_loses_nothing),
        UNIT(crashes_of_the_recovery_itself_lose_nothing),
        UNIT(crashes_of_a_small_store_whose_journal_wraps_lose_nothing),
        { 0 },
    };
    return unit_main(argc, argv, "parallax crash", tests);
}
