/* The page of metrics: made from a document of status alone. */
#include "tests/support/unit.h"
#include "tools/common/prometheus.h"
#include "tools/common/status.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *page_of(const char *text)
{
    json_error_t problem;
    json_t *doc = json_loads(text, 0, &problem);
    size_t length;
    CU_ASSERT_PTR_NOT_NULL_FATAL(doc);
    char *page = prometheus_text(doc, &length);
    CU_ASSERT_PTR_NOT_NULL_FATAL(page);
    CU_ASSERT_EQUAL(strlen(page), length);
    json_decref(doc);
    return page;
}

/* Whether a line of the page is exactly that. */
static bool has(const char *page, const char *line)
{
    size_t n = strlen(line);
    for (const char *at = page; (at = strstr(at, line)); at++)
        if ((at == page || at[-1] == '\n') && at[n] == '\n')
            return true;
    fprintf(stderr, "no line: %s\n", line);
    return false;
}

#define DEVICE(domid, image)                                                                                                         \
    "{'domid':" #domid ",'vdev':51712,'image':'" image "','state':'connected','reads':5,'writes':6,'segments':77,'events-sent':3}"
/* 2 requests of at most 1024 ns, 1 of 1536, 3 of 2048. */
#define LATENCY "{'count':6,'sum-ns':1000009000,'buckets':[2,1,3]}"

/* Single quotes become double ones. */
static char *json_quotes(const char *text)
{
    char *copy = strdup(text);
    for (char *p = copy; *p; p++)
        *p = *p == '\'' ? '"' : *p;
    return copy;
}

static char *example(void)
{
    char *text = json_quotes("{'store':'/a \\\\b\\\"c','uuid':'u','used':8192,'failed':false,"
                             "'counters':{'recovery-ms':1500,'held-blocks':2,'cache-hits':7,'latency':{'read':" LATENCY "}},"
                             "'open':[{'image':'vm1','errors':4,'read-bytes':512,'latency':{'write':" LATENCY "}},{'image':'vm2'}],"
                             "'devices':[" DEVICE(3, "vm1") "," DEVICE(4, "vm2@s") "]}");
    char *page = page_of(text);
    free(text);
    return page;
}

static void units_are_base_units_and_labels_are_escaped(void)
{
    char *page = example();
    CU_ASSERT(has(page, "parallax_store_info{store=\"/a \\\\b\\\"c\",uuid=\"u\"} 1"));
    CU_ASSERT(has(page, "parallax_store_used_bytes 8192"));
    CU_ASSERT(has(page, "parallax_held_bytes 8192"));
    CU_ASSERT(has(page, "parallax_recovery_duration_seconds 1.500"));
    CU_ASSERT(has(page, "parallax_cache_hits_total{cache=\"blocks\"} 7"));
    CU_ASSERT(has(page, "parallax_cache_hits_total{cache=\"map\"} 0"));
    free(page);
}

static void buckets_are_cumulative_and_end_with_all(void)
{
    char *page = example();
    CU_ASSERT(has(page, "parallax_request_duration_seconds_bucket{op=\"read\",le=\"1.024e-06\"} 2"));
    CU_ASSERT(has(page, "parallax_request_duration_seconds_bucket{op=\"read\",le=\"2.048e-06\"} 6"));
    CU_ASSERT(has(page, "parallax_request_duration_seconds_bucket{op=\"read\",le=\"68.719476736\"} 6"));
    CU_ASSERT(has(page, "parallax_request_duration_seconds_bucket{op=\"read\",le=\"+Inf\"} 6"));
    CU_ASSERT(has(page, "parallax_request_duration_seconds_sum{op=\"read\"} 1.000009000"));
    CU_ASSERT(has(page, "parallax_request_duration_seconds_count{op=\"read\"} 6"));
    CU_ASSERT(has(page, "parallax_request_duration_seconds_count{op=\"write\"} 0"));
    CU_ASSERT(has(page, "parallax_image_request_duration_seconds_bucket{image=\"vm1\",op=\"write\",le=\"+Inf\"} 6"));
    CU_ASSERT_PTR_NULL(strstr(page, "duration_seconds_count{image=\"vm2\""));
    free(page);
}

static void guests_and_images_are_told_apart_by_labels(void)
{
    char *page = example();
    CU_ASSERT(has(page, "parallax_vbd_requests_total{domain=\"3\",vdev=\"51712\",image=\"vm1\",op=\"write\"} 6"));
    CU_ASSERT(has(page, "parallax_vbd_segments_total{domain=\"4\",vdev=\"51712\",image=\"vm2@s\"} 77"));
    CU_ASSERT(has(page, "parallax_vbd_notifications_total{domain=\"3\",vdev=\"51712\",image=\"vm1\",direction=\"sent\"} 3"));
    CU_ASSERT(has(page, "parallax_vbd_connected{domain=\"3\",vdev=\"51712\",image=\"vm1\"} 1"));
    CU_ASSERT(has(page, "parallax_image_request_errors_total{image=\"vm1\"} 4"));
    CU_ASSERT(has(page, "parallax_image_request_bytes_total{image=\"vm1\",op=\"read\"} 512"));
    free(page);
}

/* The part of a sample's or comment's line that names the family: without the suffixes of a histogram. */
static void family_of(const char *line, char *out, size_t size)
{
    static const char *const suffixes[] = { "_bucket", "_sum", "_count" };
    if (*line == '#')
        line += strlen("# HELP ");
    snprintf(out, size, "%.*s", (int)strcspn(line, " {\n"), line);
    for (unsigned i = 0; strstr(out, "_duration_seconds") && i < 3; i++) {
        size_t n = strlen(out), k = strlen(suffixes[i]);
        if (n > k && !strcmp(out + n - k, suffixes[i]))
            out[n - k] = '\0';
    }
}

static void every_name_has_one_help_and_one_type_and_its_samples_stand_together(void)
{
    char *page = example(), current[128] = "", seen[64][128], name[128];
    unsigned families = 0, order = 0;
    for (char *line = page; *line; line = strchr(line, '\n') + 1) {
        family_of(line, name, sizeof name);
        if (!strncmp(line, "# HELP ", 7)) {
            for (unsigned i = 0; i < families; i++)
                CU_ASSERT_STRING_NOT_EQUAL(seen[i], name);
            CU_ASSERT_FATAL(families < 64);
            strcpy(seen[families++], name);
            strcpy(current, name);
            order = 1;
        } else if (!strncmp(line, "# TYPE ", 7)) {
            CU_ASSERT_EQUAL(order, 1);
            order = 2;
        } else {
            CU_ASSERT_EQUAL(order, 2);
        }
        CU_ASSERT_STRING_EQUAL(name, current);
    }
    CU_ASSERT(families > 30);
    free(page);
}

static void a_latency_survives_its_way_through_the_document(void)
{
    struct histogram h;
    json_t *doc = json_pack("{s:i,s:I,s:[i,i,i]}", "count", 6, "sum-ns", (json_int_t)99, "buckets", 2, 0, 4);
    status_latency(doc, &h);
    CU_ASSERT_EQUAL(histogram_count(&h), 6);
    CU_ASSERT_EQUAL(h.sum_ns, 99);
    CU_ASSERT_EQUAL(h.bucket[2], 4);
    status_latency(NULL, &h);
    CU_ASSERT_EQUAL(histogram_count(&h), 0);
    json_decref(doc);
}

int main(int argc, char **argv)
{
    return unit_main(argc, argv, "prometheus", (struct unit_test[]){
        UNIT(units_are_base_units_and_labels_are_escaped), UNIT(buckets_are_cumulative_and_end_with_all),
        UNIT(guests_and_images_are_told_apart_by_labels), UNIT(every_name_has_one_help_and_one_type_and_its_samples_stand_together),
        UNIT(a_latency_survives_its_way_through_the_document), { 0 } });
}
