#include "layers.h"

static int64_t clip(int64_t value, int64_t lo, int64_t hi)
{
    return value < lo ? lo : value > hi ? hi : value;
}

/* floor(value / 2^f); C99 leaves >> of a negative number to the compiler, so it is never used. */
static int64_t floor_shift(int64_t value, int f)
{
    return value < 0 ? ~(~value >> f) : value >> f;
}

static level_t requantise(int64_t acc, const struct requantiser *by, int channel)
{
    const int at = by->per_channel ? channel : 0;
    const int64_t value = acc * (acc < 0 ? by->m_neg[at] : by->m[at]);
    int64_t n;
    if (by->f > 0)
        n = clip(floor_shift(value + ((int64_t)1 << (by->f - 1)), by->f), by->lo, by->hi);
    else
        n = clip(clip(value, by->lo, by->hi) * ((int64_t)1 << -by->f), by->lo, by->hi);
    return by->table ? by->table[n - by->lo] : (level_t)n;
}

/* The taps k in first..last-1 of a kernel that begins at ``start`` and lie on a map of that side. */
static void taps_inside(int start, int step, int size, int side, int *first, int *last)
{
    *first = 0;
    *last = size;
    while (*first < size && start + *first * step < 0)
        ++*first;
    while (*last > *first && start + (*last - 1) * step >= side)
        --*last;
}

static acc_t sum(const struct conv *by, const level_t *in, int o, int y, int x)
{
    const int each = by->in.channels / by->groups;
    const int group = o / (by->out.channels / by->groups);
    const int top = y * by->down - by->pad, left = x * by->right - by->pad;
    int y0, y1, x0, x1;
    acc_t acc = by->bias[o];

    taps_inside(top, by->dilation, by->size, by->in.height, &y0, &y1);
    taps_inside(left, by->dilation, by->size, by->in.width, &x0, &x1);
    for (int i = 0; i < each; ++i) {
        const level_t *map = in + (long)(group * each + i) * by->in.height * by->in.width;
        const weight_t *kernel = by->weights + ((long)o * each + i) * by->size * by->size;
        for (int ky = y0; ky < y1; ++ky) {
            const level_t *row = map + (long)(top + ky * by->dilation) * by->in.width + left;
            for (int kx = x0; kx < x1; ++kx)
                acc += (acc_t)kernel[ky * by->size + kx] * row[kx * by->dilation];
        }
    }
    return acc;
}

void conv(const struct conv *by, const level_t *in, level_t *levels, acc_t *acc)
{
    long at = 0;
    for (int o = 0; o < by->out.channels; ++o)
        for (int y = 0; y < by->out.height; ++y)
            for (int x = 0; x < by->out.width; ++x, ++at) {
                const acc_t total = sum(by, in, o, y, x);
                if (levels)
                    levels[at] = requantise(total, &by->by, o);
                else
                    acc[at] = total;
            }
}

void shortcut(const struct shortcut *by, const level_t *const *in, level_t *out)
{
    const long each = (long)by->map.height * by->map.width;
    for (long at = 0; at < by->map.channels * each; ++at) {
        const int c = (int)(at / each);
        int64_t total = 0;
        for (int j = 0; j < by->inputs; ++j)
            total += (int64_t)in[j][at] * by->gains[by->per_channel ? j * by->map.channels + c : j];
        out[at] = requantise(total, &by->by, c);
    }
}

void average(const struct pointwise *by, const level_t *in, level_t *out)
{
    const long each = (long)by->map.height * by->map.width;
    for (int c = 0; c < by->map.channels; ++c) {
        int64_t total = 0;
        for (long at = 0; at < each; ++at)
            total += *in++;
        out[c] = requantise(total, &by->by, c);
    }
}

void gate(const struct pointwise *by, const level_t *gates, const level_t *in, level_t *out)
{
    const long each = (long)by->map.height * by->map.width;
    for (int c = 0; c < by->map.channels; ++c)
        for (long at = 0; at < each; ++at)
            *out++ = requantise((int64_t)gates[c] * *in++, &by->by, c);
}

void max_pool(const struct pool *by, const level_t *in, level_t *out)
{
    for (int c = 0; c < by->out.channels; ++c, in += (long)by->in.height * by->in.width)
        for (int y = 0; y < by->out.height; ++y)
            for (int x = 0; x < by->out.width; ++x) {
                const int top = y * by->stride - by->before, left = x * by->stride - by->before;
                int y0, y1, x0, x1, best = by->lowest;
                taps_inside(top, 1, by->size, by->in.height, &y0, &y1);
                taps_inside(left, 1, by->size, by->in.width, &x0, &x1);
                for (int ky = y0; ky < y1; ++ky)
                    for (int kx = x0; kx < x1; ++kx) {
                        const int n = in[(long)(top + ky) * by->in.width + left + kx];
                        best = n > best ? n : best;
                    }
                *out++ = (level_t)best;
            }
}

void upsample(const struct map *in, int stride, const level_t *from, level_t *to)
{
    for (int c = 0; c < in->channels; ++c)
        for (int y = 0; y < in->height * stride; ++y)
            for (int x = 0; x < in->width * stride; ++x)
                *to++ = from[((long)c * in->height + y / stride) * in->width + x / stride];
}

/* Each level, and zeros behind it. */
void spread(const struct map *in, int stride, const level_t *from, level_t *to)
{
    for (int c = 0; c < in->channels; ++c)
        for (int y = 0; y < in->height * stride; ++y)
            for (int x = 0; x < in->width * stride; ++x)
                *to++ = y % stride || x % stride ? 0 : from[((long)c * in->height + y / stride) * in->width + x / stride];
}

/* The channels that both have, zeros in the others; every stride-th pixel, or pixels with zeros behind them. */
void fit(const struct map *in, const struct map *out, int stride, int spread, const level_t *from, level_t *to)
{
    for (int c = 0; c < out->channels; ++c)
        for (int y = 0; y < out->height; ++y)
            for (int x = 0; x < out->width; ++x)
                *to++ = c >= in->channels || y % spread || x % spread
                    ? 0
                    : from[((long)c * in->height + y / spread * stride) * in->width + x / spread * stride];
}

/* The memory is taken for channels / stride^2 maps of stride times the sides; its pixels of one place go together. */
void reorg(const struct map *in, int stride, const level_t *from, level_t *to)
{
    const int channels = in->channels / (stride * stride);
    for (int dy = 0; dy < stride; ++dy)
        for (int dx = 0; dx < stride; ++dx)
            for (int c = 0; c < channels; ++c)
                for (int y = 0; y < in->height; ++y)
                    for (int x = 0; x < in->width; ++x)
                        *to++ = from[((((long)c * in->height + y) * stride + dy) * in->width + x) * stride + dx];
}

/* The pixels of a square become channels: [dy][dx][channel]. */
void space_to_depth(const struct map *in, int stride, const level_t *from, level_t *to)
{
    for (int dy = 0; dy < stride; ++dy)
        for (int dx = 0; dx < stride; ++dx)
            for (int c = 0; c < in->channels; ++c)
                for (int y = dy; y < in->height; y += stride)
                    for (int x = dx; x < in->width; x += stride)
                        *to++ = from[((long)c * in->height + y) * in->width + x];
}

void copy(const level_t *from, long count, level_t *to)
{
    for (long at = 0; at < count; ++at)
        to[at] = from[at];
}
