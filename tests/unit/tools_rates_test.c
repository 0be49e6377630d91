/* What happened between two documents of status: what `top` shows. */
#include "tests/support/unit.h"
#include "tools/common/rates.h"

#include <stdlib.h>
#include <string.h>

/* Single quotes become double ones. */
static json_t *document(const char *text)
{
    char *copy = strdup(text);
    for (char *p = copy; *p; p++)
        *p = *p == '\'' ? '"' : *p;
    json_t *doc = json_loads(copy, 0, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(doc);
    free(copy);
    return doc;
}

static json_t *between(const char *before, const char *after, double seconds)
{
    json_t *a = document(before), *b = document(after), *rates = rates_document(a, b, seconds);
    CU_ASSERT_PTR_NOT_NULL_FATAL(rates);
    json_decref(a);
    json_decref(b);
    return rates;
}

static long long count(const json_t *doc, const char *key) { return json_integer_value(json_object_get(doc, key)); }
static double real(const json_t *doc, const char *key) { return json_number_value(json_object_get(doc, key)); }
static const json_t *element(const json_t *doc, const char *list, size_t i) { return json_array_get(json_object_get(doc, list), i); }
static const json_t *latency(const json_t *doc, const char *op) { return json_object_get(json_object_get(doc, "latency"), op); }

static void rates_are_differences_over_time(void)
{
    json_t *r = between("{'counters':{'reads':10,'read-bytes':4096,'cache-hits':5,'cache-misses':5,'checkpoints':1,"
                        "'latency':{'read':{'sum-ns':10000,'buckets':[10]}}}}",
                        "{'store':'s','used':7,'counters':{'reads':30,'read-bytes':12288,'flushes':4,'cache-hits':8,'cache-misses':6,'checkpoints':3,"
                        "'journal-bytes':100,'journal-used-bytes':25,'latency':{'read':{'sum-ns':90000,'buckets':[10,0,0,0,20]}}}}",
                        2);
    const json_t *total = json_object_get(r, "total");
    CU_ASSERT_EQUAL(count(total, "reads"), 20);
    CU_ASSERT_EQUAL(count(total, "flushes"), 4);
    CU_ASSERT_EQUAL(real(total, "iops"), 12);
    CU_ASSERT_EQUAL(real(total, "read-bytes-per-second"), 4096);
    CU_ASSERT_EQUAL(count(latency(total, "read"), "average-ns"), 4000);
    /* All that was new fell between 3072 and 4096 ns. */
    CU_ASSERT(count(latency(total, "read"), "p99-ns") > 4000 && count(latency(total, "read"), "p99-ns") <= 4096);
    CU_ASSERT(json_is_null(latency(total, "write")));
    CU_ASSERT_EQUAL(real(r, "cache-hit-share"), 0.75);
    CU_ASSERT(json_is_null(json_object_get(r, "map-hit-share")));
    CU_ASSERT_EQUAL(count(r, "checkpoints"), 2);
    CU_ASSERT_EQUAL(real(r, "journal-used-share"), 0.25);
    json_decref(r);
}

static void an_image_is_known_by_its_identity_and_a_new_one_begins_from_zero(void)
{
    json_t *r = between("{'open':[{'image':'a','identity':'id:1','writes':100},{'image':'b','identity':'id:2','writes':50},"
                        "{'image':'gone','identity':'id:3','writes':9}]}",
                        "{'open':[{'image':'renamed','identity':'id:1','writes':103},{'image':'b','identity':'id:2','writes':7},"
                        "{'image':'new','identity':'id:4','writes':2}],"
                        "'devices':[{'domid':3,'vdev':1,'image':'renamed'},{'domid':5,'vdev':1,'image':'renamed@s'},{'domid':6,'vdev':1,'image':'renamed2'}]}",
                        1);
    CU_ASSERT_EQUAL(json_array_size(json_object_get(r, "images")), 3);
    CU_ASSERT_STRING_EQUAL(json_string_value(json_object_get(element(r, "images", 0), "image")), "renamed");
    CU_ASSERT_EQUAL(count(element(r, "images", 0), "writes"), 3);
    CU_ASSERT_EQUAL(count(element(r, "images", 1), "writes"), 7); /* closed and opened again meanwhile */
    CU_ASSERT_EQUAL(count(element(r, "images", 2), "writes"), 2);
    const json_t *guests = json_object_get(element(r, "images", 0), "guests");
    CU_ASSERT_EQUAL(json_array_size(guests), 2);
    CU_ASSERT_EQUAL(json_integer_value(json_array_get(guests, 1)), 5);
    json_decref(r);
}

static void a_guest_has_the_ratios_of_the_time_between(void)
{
    json_t *r = between("{'devices':[{'domid':3,'vdev':9,'reads':10,'segments':10,'events-sent':10}]}",
                        "{'devices':[{'domid':3,'vdev':9,'image':'a','state':'connected','in-flight':2,'reads':12,'writes':2,'flushes':1,'segments':42,"
                        "'indirect':1,'events-sent':11},{'domid':4,'vdev':9,'image':'b'}]}",
                        0.5);
    const json_t *d = element(r, "devices", 0);
    CU_ASSERT_EQUAL(real(d, "iops"), 10);
    CU_ASSERT_EQUAL(real(d, "segments-per-request"), 8);
    CU_ASSERT_EQUAL(real(d, "indirect-share"), 0.25);
    CU_ASSERT_EQUAL(real(d, "notifications-per-request"), 0.2);
    CU_ASSERT_EQUAL(count(d, "in-flight"), 2);
    CU_ASSERT(json_is_null(json_object_get(element(r, "devices", 1), "indirect-share")));
    json_decref(r);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "rates", (struct unit_test[]){
        UNIT(rates_are_differences_over_time), UNIT(an_image_is_known_by_its_identity_and_a_new_one_begins_from_zero),
        UNIT(a_guest_has_the_ratios_of_the_time_between), { 0 } });
}
