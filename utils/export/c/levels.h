/* Levels of a map, whatever they are stored as; for layers.c and moves.c. */
#ifndef LEVELS_H
#define LEVELS_H

#include "layers.h"

enum { CHUNK = 128 }; /* levels at a time, where a layer needs no band */

/* n levels from the one of that number on, ``step`` apart. */
static void take(const uint8_t *arena, const struct map *map, long first, long step, long n, work_t *to)
{
    const void *from = arena + map->at;
#define TAKE(type) for (long q = 0; q < n; ++q) to[q] = (work_t)((const type *)from)[first + q * step]
    switch (map->kind) {
    case STORED_U8: TAKE(uint8_t); break;
    case STORED_S8: TAKE(int8_t); break;
    case STORED_S16: TAKE(int16_t); break;
    default: TAKE(int32_t);
    }
#undef TAKE
}

static void give(uint8_t *arena, const struct map *map, long first, long n, const work_t *from)
{
    void *to = arena + map->at;
#define GIVE(type) for (long q = 0; q < n; ++q) ((type *)to)[first + q] = (type)from[q]
    switch (map->kind) {
    case STORED_U8: GIVE(uint8_t); break;
    case STORED_S8: GIVE(int8_t); break;
    case STORED_S16: GIVE(int16_t); break;
    default: GIVE(int32_t);
    }
#undef GIVE
}

static long smaller(long a, long b)
{
    return a < b ? a : b;
}

#endif
