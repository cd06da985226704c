/* The layers of an integer network in plain C99: integers only, no library, no heap. */
#ifndef LAYERS_H
#define LAYERS_H

#include "types.h"

struct map {
    int channels, height, width, kind; /* kind: of enum storage */
    long at;                           /* bytes from the start of the arena */
};

/* n = clip((acc * m + 2^(f-1)) >> f, lo, hi); m_neg stands in for m where acc < 0; one gain a channel, or one in all.
   Where there is a table, the level is table[n - lo]. */
struct requantiser {
    const int32_t *m, *m_neg;
    int per_channel, f, lo, hi;
    const work_t *table; /* may be null */
};

/* How a kernel looks at a map. What ``rows`` rows of outputs need is laid out in a band of work_t, channel by channel:
   padding made, every ``down``-th row and ``right``-th column together in a phase, so that what one tap needs for all
   outputs lies side by side. */
struct window {
    int size, down, right, pad; /* down, right: strides; pad: rows above and columns to the left */
    int rows;
    int phases_down, phases_right, high, wide; /* of a phase: rows, and places of a row */
    long channel;                              /* places of a channel: of all its phases */
    const int *taps;                           /* [size][size]: place of the first output's tap in a channel */
    long band;                                 /* bytes from the start of the arena */
};

/* Leaky neurons: u = v >> shift, or v - (v >> shift), + acc; a spike where u > 2^log2_threshold takes that off, or all. */
struct lif {
    const uint8_t *log2_threshold; /* [out] */
    int shift, most, soft;
    long potentials; /* of acc_t; bytes from the start of the arena */
};

struct conv {
    struct map in, out;
    struct window window;
    int groups;
    const weight_t *weights; /* [out][in / groups][size][size] */
    const int32_t *bias;
    struct requantiser by; /* m is null for a read-out, whose accumulators stay */
    long sums, levels;     /* of acc_t and work_t; bytes from the start of the arena */
    const struct lif *neurons; /* that the sums charge, step by step; may be null */
    int gathers;               /* a read-out adds to what is there from the steps before */
};

struct shortcut {
    struct map out;
    int inputs, per_channel;
    const struct map *in;
    const int32_t *gains; /* [inputs], or [inputs][channels] */
    struct requantiser by;
};

struct pointwise { /* an average; or a gate, whose levels of a channel are ``gates`` */
    struct map in, out, gates;
    struct requantiser by;
};

struct pool {
    struct map in, out;
    struct window window;
    int lowest;
    long levels;
};

struct move { /* whatever computes nothing; stride, spread, first, count as the function needs them */
    struct map in, out;
    int stride, spread;
    long first, count, to; /* of a copy: levels from in + first to out + to */
};

void conv(const struct conv *by, uint8_t *arena);
void rest(uint8_t *arena, long at, long count); /* so many acc_t become 0: what a network of steps begins with */
void shortcut(const struct shortcut *by, uint8_t *arena);
void average(const struct pointwise *by, uint8_t *arena);
void gate(const struct pointwise *by, uint8_t *arena);
void max_pool(const struct pool *by, uint8_t *arena);
void upsample(const struct move *by, uint8_t *arena);
void fit(const struct move *by, uint8_t *arena);
void reorg(const struct move *by, uint8_t *arena);
void space_to_depth(const struct move *by, uint8_t *arena);
void copy(const struct move *by, uint8_t *arena);

#endif
