#include "levels.h"

static long pixels(const struct map *map)
{
    return (long)map->height * map->width;
}

/* ---- requantisation ---- */

static int64_t clip(int64_t value, int64_t lo, int64_t hi)
{
    return value < lo ? lo : value > hi ? hi : value;
}

/* floor(value / 2^f); C99 leaves >> of a negative number to the compiler, so it is never used. */
static int64_t floor_shift(int64_t value, int f)
{
    const int64_t sign = value < 0 ? -1 : 0;
    return (int64_t)((uint64_t)(value ^ sign) >> f) ^ sign;
}

/* The level of each of n sums of a channel: macro, since sums are acc_t in a convolution and int64_t elsewhere. */
#define LEVELS(sums, n, by, channel, levels) \
    do { \
        const int at = (by)->per_channel ? (channel) : 0, f = (by)->f; \
        const int32_t m = (by)->m[at], m_neg = (by)->m_neg[at]; \
        const int64_t lo = (by)->lo, hi = (by)->hi, half = f > 0 ? (int64_t)1 << (f - 1) : 0; \
        if (f > 0) \
            for (long q = 0; q < (n); ++q) \
                (levels)[q] = (work_t)clip( \
                    floor_shift((int64_t)(sums)[q] * ((sums)[q] < 0 ? m_neg : m) + half, f), lo, hi); \
        else \
            for (long q = 0; q < (n); ++q) \
                (levels)[q] = (work_t)clip( \
                    clip((int64_t)(sums)[q] * ((sums)[q] < 0 ? m_neg : m), lo, hi) * ((int64_t)1 << -f), lo, hi); \
        if ((by)->table) \
            for (long q = 0; q < (n); ++q) \
                (levels)[q] = (by)->table[(levels)[q] - (by)->lo]; \
    } while (0)

/* ---- windows ---- */

/* The row of the band that begins with map row ``row`` and column ``column``, both of them perhaps in the padding. */
static void fill_row(const uint8_t *arena, const struct map *in, int channel, long row, long column, int right,
                     long wide, work_t padding, work_t *to)
{
    long first = column < 0 ? (-column + right - 1) / right : 0;
    long end = in->width > column ? (in->width - column + right - 1) / right : 0;
    if (row < 0 || row >= in->height)
        first = end = 0;
    first = smaller(first, wide);
    end = smaller(end, wide);
    if (end < first)
        end = first;
    for (long x = 0; x < first; ++x)
        to[x] = padding;
    if (end > first)
        take(arena, in, ((long)channel * in->height + row) * in->width + column + first * right, right, end - first,
             to + first);
    for (long x = end; x < wide; ++x)
        to[x] = padding;
}

static void fill_band(const uint8_t *arena, const struct map *in, int channel, const struct window *by, int top,
                      work_t padding, work_t *to)
{
    for (int dy = 0; dy < by->phases_down; ++dy)
        for (int dx = 0; dx < by->phases_right; ++dx)
            for (int y = 0; y < by->high; ++y, to += by->wide)
                fill_row(arena, in, channel, (long)(top + y) * by->down + dy - by->pad, (long)dx - by->pad, by->right,
                         by->wide, padding, to);
}

/* ---- convolutions ---- */

/* The taps of a kernel, one after the other: [channel][ky][kx]. */
struct walk {
    const struct window *by;
    const work_t *channel;
    int tap;
};

static const work_t *next_tap(struct walk *walk)
{
    const work_t *found = walk->channel + walk->by->taps[walk->tap];
    if (++walk->tap == walk->by->size * walk->by->size) {
        walk->tap = 0;
        walk->channel += walk->by->channel;
    }
    return found;
}

/* Four taps of four outputs. */
static void add_4x4(long n, const work_t *const x[4], const weight_t *const w[4], acc_t *sums, long apart)
{
    const work_t *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    acc_t *restrict a = sums, *restrict b = sums + apart, *restrict c = sums + 2 * apart, *restrict d = sums + 3 * apart;
    const acc_t a0 = w[0][0], a1 = w[0][1], a2 = w[0][2], a3 = w[0][3], b0 = w[1][0], b1 = w[1][1], b2 = w[1][2],
                b3 = w[1][3], c0 = w[2][0], c1 = w[2][1], c2 = w[2][2], c3 = w[2][3], d0 = w[3][0], d1 = w[3][1],
                d2 = w[3][2], d3 = w[3][3];
    for (long q = 0; q < n; ++q) {
        const acc_t p0 = x0[q], p1 = x1[q], p2 = x2[q], p3 = x3[q];
        a[q] += a0 * p0 + a1 * p1 + a2 * p2 + a3 * p3;
        b[q] += b0 * p0 + b1 * p1 + b2 * p2 + b3 * p3;
        c[q] += c0 * p0 + c1 * p1 + c2 * p2 + c3 * p3;
        d[q] += d0 * p0 + d1 * p1 + d2 * p2 + d3 * p3;
    }
}

static void add_4(long n, const work_t *const x[4], const weight_t *w, acc_t *restrict sums)
{
    const work_t *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    const acc_t w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
    for (long q = 0; q < n; ++q)
        sums[q] += w0 * x0[q] + w1 * x1[q] + w2 * x2[q] + w3 * x3[q];
}

static void add_1(long n, const work_t *x, acc_t w, acc_t *restrict sums)
{
    for (long q = 0; q < n; ++q)
        sums[q] += w * x[q];
}

/* The sums of outputs o..o+count-1 over the whole kernel, of n places of the band. */
static void add_up(const struct conv *by, const work_t *band, int o, int count, long n, acc_t *sums)
{
    const long taps = (long)(by->in.channels / by->groups) * by->window.size * by->window.size;
    const weight_t *w[4];
    struct walk walk = {&by->window, band, 0};
    long k = 0;
    for (int m = 0; m < count; ++m) {
        w[m] = by->weights + (o + m) * taps;
        for (long q = 0; q < n; ++q)
            sums[m * n + q] = by->bias[o + m];
    }
    for (; k + 4 <= taps; k += 4) {
        const work_t *x[4];
        for (int j = 0; j < 4; ++j)
            x[j] = next_tap(&walk);
        if (count == 4)
            add_4x4(n, x, w, sums, n);
        else
            for (int m = 0; m < count; ++m)
                add_4(n, x, w[m], sums + m * n);
        for (int m = 0; m < count; ++m)
            w[m] += 4;
    }
    for (; k < taps; ++k) {
        const work_t *x = next_tap(&walk);
        for (int m = 0; m < count; ++m)
            add_1(n, x, *w[m]++, sums + m * n);
    }
}

void rest(uint8_t *arena, long at, long count)
{
    acc_t *numbers = (acc_t *)(void *)(arena + at);
    for (long q = 0; q < count; ++q)
        numbers[q] = 0;
}

/* A step of n neurons of output o, from number ``first`` on. */
static void fire(const struct conv *by, uint8_t *arena, int o, long first, long n, const acc_t *sums)
{
    const struct lif *as = by->neurons;
    acc_t *v = (acc_t *)(void *)(arena + as->potentials) + first;
    uint8_t *spikes = arena + by->out.at + first;
    const acc_t threshold = (acc_t)1 << as->log2_threshold[o];
    for (long q = 0; q < n; ++q) {
        const acc_t part = (acc_t)floor_shift(v[q], as->shift), u = (as->most ? v[q] - part : part) + sums[q];
        spikes[q] = u > threshold;
        v[q] = !spikes[q] ? u : as->soft ? u - threshold : 0;
    }
}

/* ``rows`` rows of output o, of which the band has one every ``wide`` places. */
static void finish(const struct conv *by, uint8_t *arena, int o, int top, int rows, long wide, const acc_t *sums)
{
    const long first = ((long)o * by->out.height + top) * by->out.width, n = (rows - 1) * wide + by->out.width;
    work_t *levels = (work_t *)(void *)(arena + by->levels);
    if (by->by.m)
        LEVELS(sums, n, &by->by, o, levels);
    for (int y = 0; y < rows; ++y) {
        const long at = first + (long)y * by->out.width;
        acc_t *totals = (acc_t *)(void *)(arena + by->out.at) + at;
        if (by->neurons)
            fire(by, arena, o, at, by->out.width, sums + y * wide);
        else if (by->by.m)
            give(arena, &by->out, at, by->out.width, levels + y * wide);
        else
            for (int x = 0; x < by->out.width; ++x)
                totals[x] = sums[y * wide + x] + (by->gathers ? totals[x] : 0);
    }
}

void conv(const struct conv *by, uint8_t *arena)
{
    const int given = by->in.channels / by->groups, made = by->out.channels / by->groups;
    const long wide = by->window.wide, channel = by->window.channel;
    work_t *band = (work_t *)(void *)(arena + by->window.band);
    acc_t *sums = (acc_t *)(void *)(arena + by->sums);
    for (int group = 0; group < by->groups; ++group)
        for (int top = 0; top < by->out.height; top += by->window.rows) {
            const int rows = (int)smaller(by->window.rows, by->out.height - top);
            const long n = (rows - 1) * wide + by->out.width;
            for (int i = 0; i < given; ++i)
                fill_band(arena, &by->in, group * given + i, &by->window, top, 0, band + i * channel);
            for (int o = group * made; o < (group + 1) * made; o += 4) {
                const int count = (int)smaller(4, (group + 1) * made - o);
                add_up(by, band, o, count, n, sums);
                for (int m = 0; m < count; ++m)
                    finish(by, arena, o + m, top, rows, wide, sums + m * n);
            }
        }
}

/* ---- sums, averages, gates, pools ---- */

void shortcut(const struct shortcut *by, uint8_t *arena)
{
    const long each = pixels(&by->out);
    int64_t sums[CHUNK];
    work_t levels[CHUNK];
    for (int c = 0; c < by->out.channels; ++c)
        for (long at = 0; at < each; at += CHUNK) {
            const long n = smaller(CHUNK, each - at);
            for (long q = 0; q < n; ++q)
                sums[q] = 0;
            for (int j = 0; j < by->inputs; ++j) {
                const int64_t gain = by->gains[by->per_channel ? j * by->out.channels + c : j];
                take(arena, &by->in[j], c * each + at, 1, n, levels);
                for (long q = 0; q < n; ++q)
                    sums[q] += levels[q] * gain;
            }
            LEVELS(sums, n, &by->by, c, levels);
            give(arena, &by->out, c * each + at, n, levels);
        }
}

void average(const struct pointwise *by, uint8_t *arena)
{
    const long each = pixels(&by->in);
    work_t levels[CHUNK];
    for (int c = 0; c < by->in.channels; ++c) {
        int64_t total = 0;
        for (long at = 0; at < each; at += CHUNK) {
            const long n = smaller(CHUNK, each - at);
            take(arena, &by->in, c * each + at, 1, n, levels);
            for (long q = 0; q < n; ++q)
                total += levels[q];
        }
        LEVELS(&total, 1, &by->by, c, levels);
        give(arena, &by->out, c, 1, levels);
    }
}

void gate(const struct pointwise *by, uint8_t *arena)
{
    const long each = pixels(&by->in);
    int64_t sums[CHUNK];
    work_t levels[CHUNK], gate_of;
    for (int c = 0; c < by->in.channels; ++c) {
        take(arena, &by->gates, c, 1, 1, &gate_of);
        for (long at = 0; at < each; at += CHUNK) {
            const long n = smaller(CHUNK, each - at);
            take(arena, &by->in, c * each + at, 1, n, levels);
            for (long q = 0; q < n; ++q)
                sums[q] = (int64_t)gate_of * levels[q];
            LEVELS(sums, n, &by->by, c, levels);
            give(arena, &by->out, c * each + at, n, levels);
        }
    }
}

static void keep_largest(long n, const work_t *x, work_t *restrict levels)
{
    for (long q = 0; q < n; ++q)
        levels[q] = x[q] > levels[q] ? x[q] : levels[q];
}

void max_pool(const struct pool *by, uint8_t *arena)
{
    const struct window *window = &by->window;
    const long wide = window->wide;
    work_t *band = (work_t *)(void *)(arena + window->band), *levels = (work_t *)(void *)(arena + by->levels);
    for (int c = 0; c < by->out.channels; ++c)
        for (int top = 0; top < by->out.height; top += window->rows) {
            const int rows = (int)smaller(window->rows, by->out.height - top);
            const long n = (rows - 1) * wide + by->out.width;
            fill_band(arena, &by->in, c, window, top, (work_t)by->lowest, band);
            for (long q = 0; q < n; ++q)
                levels[q] = (work_t)by->lowest;
            for (int tap = 0; tap < window->size * window->size; ++tap)
                keep_largest(n, band + window->taps[tap], levels);
            for (int y = 0; y < rows; ++y)
                give(arena, &by->out, ((long)c * by->out.height + top + y) * by->out.width, by->out.width,
                     levels + y * wide);
        }
}
