/* The layers of an integer network in plain C99: integers only, no library, no heap. */
#ifndef LAYERS_H
#define LAYERS_H

#include "types.h"

struct map {
    int channels, height, width;
};

/* n = clip((acc * m + 2^(f-1)) >> f, lo, hi); m_neg stands in for m where acc < 0; one gain a channel, or one in all.
   Where there is a table, the level is table[n - lo]. */
struct requantiser {
    const int32_t *m, *m_neg;
    int per_channel, f, lo, hi;
    const level_t *table; /* may be null */
};

struct conv {
    struct map in, out;
    int size, down, right, pad, dilation, groups; /* down, right: strides */
    const weight_t *weights;                      /* [out][in / groups][size][size] */
    const int32_t *bias;
    struct requantiser by;
};

struct shortcut {
    struct map map;
    int inputs, per_channel;
    const int32_t *gains; /* [inputs], or [inputs][channels] */
    struct requantiser by;
};

struct pointwise { /* an average or a gate; the map is the larger input */
    struct map map;
    struct requantiser by;
};

struct pool {
    struct map in, out;
    int size, stride, before, lowest; /* before: pixels of padding at the top and left */
};

/* Either levels or acc is null: a read-out keeps its accumulators. */
void conv(const struct conv *by, const level_t *in, level_t *levels, acc_t *acc);
void shortcut(const struct shortcut *by, const level_t *const *in, level_t *out);
void average(const struct pointwise *by, const level_t *in, level_t *out);
void gate(const struct pointwise *by, const level_t *gates, const level_t *in, level_t *out);
void max_pool(const struct pool *by, const level_t *in, level_t *out);
void upsample(const struct map *in, int stride, const level_t *from, level_t *to);
void spread(const struct map *in, int stride, const level_t *from, level_t *to);
void fit(const struct map *in, const struct map *out, int stride, int spread, const level_t *from, level_t *to);
void reorg(const struct map *in, int stride, const level_t *from, level_t *to);
void space_to_depth(const struct map *in, int stride, const level_t *from, level_t *to);
void copy(const level_t *from, long count, level_t *to);

#endif
