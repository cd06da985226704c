/* The layers that compute nothing. */
#include "levels.h"

static void move_one(uint8_t *arena, const struct move *by, long from, long to)
{
    work_t level;
    take(arena, &by->in, from, 1, 1, &level);
    give(arena, &by->out, to, 1, &level);
}

void upsample(const struct move *by, uint8_t *arena)
{
    long to = 0;
    for (int c = 0; c < by->out.channels; ++c)
        for (int y = 0; y < by->out.height; ++y)
            for (int x = 0; x < by->out.width; ++x, ++to)
                move_one(arena, by, ((long)c * by->in.height + y / by->stride) * by->in.width + x / by->stride, to);
}

/* The channels that both have, zeros in the others; every stride-th pixel, or pixels with zeros behind them. */
void fit(const struct move *by, uint8_t *arena)
{
    const work_t zero = 0;
    long to = 0;
    for (int c = 0; c < by->out.channels; ++c)
        for (int y = 0; y < by->out.height; ++y)
            for (int x = 0; x < by->out.width; ++x, ++to)
                if (c >= by->in.channels || y % by->spread || x % by->spread)
                    give(arena, &by->out, to, 1, &zero);
                else
                    move_one(arena, by,
                             ((long)c * by->in.height + y / by->spread * by->stride) * by->in.width +
                                 x / by->spread * by->stride,
                             to);
}

/* The memory is taken for channels / stride^2 maps of stride times the sides; its pixels of one place go together. */
void reorg(const struct move *by, uint8_t *arena)
{
    const struct map *in = &by->in;
    const int channels = in->channels / (by->stride * by->stride);
    long to = 0;
    for (int dy = 0; dy < by->stride; ++dy)
        for (int dx = 0; dx < by->stride; ++dx)
            for (int c = 0; c < channels; ++c)
                for (int y = 0; y < in->height; ++y)
                    for (int x = 0; x < in->width; ++x, ++to)
                        move_one(arena, by,
                                 ((((long)c * in->height + y) * by->stride + dy) * in->width + x) * by->stride + dx,
                                 to);
}

/* The pixels of a square become channels: [dy][dx][channel]. */
void space_to_depth(const struct move *by, uint8_t *arena)
{
    long to = 0;
    for (int dy = 0; dy < by->stride; ++dy)
        for (int dx = 0; dx < by->stride; ++dx)
            for (int c = 0; c < by->in.channels; ++c)
                for (int y = dy; y < by->in.height; y += by->stride)
                    for (int x = dx; x < by->in.width; x += by->stride, ++to)
                        move_one(arena, by, ((long)c * by->in.height + y) * by->in.width + x, to);
}

void copy(const struct move *by, uint8_t *arena)
{
    work_t levels[CHUNK];
    for (long at = 0; at < by->count; at += CHUNK) {
        const long n = smaller(CHUNK, by->count - at);
        take(arena, &by->in, by->first + at, 1, n, levels);
        give(arena, &by->out, by->to + at, n, levels);
    }
}
