/* What becomes of accumulators between two convolutions, in one pass: see byte_levels.py, which does the same in several.

   Numbers are integers, or integers over a power of two, below 2^53 throughout, so double loses nothing of them and a
   fused multiply-add changes nothing. "gain" and the like hold one number for each of the "width" values of a row. */

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint8_t cut(double value, double low, double high) {
    value = value < low ? low : value;
    value = value > high ? high : value;
    return (uint8_t)(int32_t)value; /* low is 0 or more: to cut is to floor */
}

/* out = clip(floor(acc * gain + offset)); "negative" is the gain below 0, or null where there is only one. */
void requantise(const float *restrict acc, uint8_t *restrict out, int64_t rows, int64_t width, const double *restrict gain,
                const double *restrict negative, double offset, double low, double high) {
    for (int64_t r = 0; r < rows; r++, acc += width, out += width)
        if (negative)
            for (int64_t c = 0; c < width; c++) {
                double above = acc[c] * gain[c], below = acc[c] * negative[c];
                out[c] = cut((acc[c] < 0 ? below : above) + offset, low, high);
            }
        else
            for (int64_t c = 0; c < width; c++)
                out[c] = cut(acc[c] * gain[c] + offset, low, high);
}

/* The same of acc = one * by_one + other * by_other + rest, for bytes. */
void add(const uint8_t *restrict one, const uint8_t *restrict other, uint8_t *restrict out, int64_t rows, int64_t width,
         const double *restrict by_one, const double *restrict by_other, const double *restrict rest,
         const double *restrict gain, const double *restrict negative, double offset, double low, double high) {
    for (int64_t r = 0; r < rows; r++, one += width, other += width, out += width)
        for (int64_t c = 0; c < width; c++) {
            double acc = one[c] * by_one[c] + other[c] * by_other[c] + rest[c];
            out[c] = cut(acc * (acc < 0 ? negative[c] : gain[c]) + offset, low, high);
        }
}

/* Pixels n / 255 -> n, as image_levels has them: two roundings in float, then floor. */
void pixels(const float *restrict in, uint8_t *restrict out, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        float value = in[i] * 255.0f;
        value = value + 0.5f;
        value = value > 0 ? value : 0;
        out[i] = (uint8_t)(int32_t)(value < 255 ? value : 255);
    }
}

/* out = acc * scale: the product in double. */
void read_out(const float *restrict acc, float *restrict out, int64_t rows, int64_t width, const double *restrict scale) {
    for (int64_t r = 0; r < rows; r++, acc += width, out += width)
        for (int64_t c = 0; c < width; c++)
            out[c] = (float)(acc[c] * scale[c]);
}

static inline void largest(uint8_t *restrict out, const uint8_t *restrict in, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        out[i] = in[i] > out[i] ? in[i] : out[i];
}

/* Max pool of maps, channels last; "before" px of padding, which is never the maximum, and whatever of it a window
   needs after the map. First of the rows of a window, in "line" [width * channels], then of its columns. */
void max_pool(const uint8_t *restrict in, uint8_t *restrict out, int64_t images, int64_t height, int64_t width,
              int64_t channels, int64_t made_height, int64_t made_width, int64_t size, int64_t stride, int64_t before,
              uint8_t *restrict line) {
    for (int64_t row = 0; row < images * made_height; row++) {
        int64_t y = row % made_height, top = y * stride - before, first = top < 0 ? 0 : top;
        if (row && y == 0)
            in += height * width * channels;
        memset(line, 0, (size_t)(width * channels));
        for (int64_t v = first; v < top + size && v < height; v++)
            largest(line, in + v * width * channels, width * channels);
        memset(out, 0, (size_t)(made_width * channels));
        for (int64_t x = 0; x < made_width; x++, out += channels) {
            int64_t left = x * stride - before;
            for (int64_t u = left < 0 ? 0 : left; u < left + size && u < width; u++)
                if (channels == 8) /* a number that the compiler knows it lays into one vector */
                    largest(out, line + u * 8, 8);
                else if (channels % 16 == 0)
                    for (int64_t c = 0; c < channels; c += 16)
                        largest(out + c, line + u * channels + c, 16);
                else
                    largest(out, line + u * channels, channels);
        }
    }
}

#if defined(__GNUC__) && !defined(__clang__)
#define ANY_ORDER __attribute__((noinline, optimize("-O3", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math")))
#else
#define ANY_ORDER
#endif
#define CHUNK 512 /* weights whose squares are added up in float */

/* The squared error of a row of weights on a grid; LEVEL is a weight's level, not yet cut, of "over" = 1 / scale or scale. */
#define ERROR(NAME, REAL, LEVEL)                                                                                         \
    ANY_ORDER static REAL NAME(const REAL *restrict row, int64_t length, REAL scale, REAL top) {                         \
        REAL over = 1 / scale, total = 0;                                                                                \
        for (int64_t k = 0; k < length; k++) {                                                                           \
            REAL level = LEVEL;                                                                                          \
            level = level < -top ? -top : level;                                                                         \
            level = level > top ? top : level;                                                                           \
            REAL off = level * scale - row[k];                                                                           \
            total += off * off;                                                                                          \
        }                                                                                                                \
        (void)over;                                                                                                      \
        return total;                                                                                                    \
    }

ERROR(near_error, float, floorf(row[k] * over + 0.5f))
ERROR(squared_error, double, floor(row[k] / scale + 0.5))

/* Of each row of weights its squared errors on grids of "count" scales, a row of which goes with it; near, in float. */
void near_errors(const float *restrict weights, int64_t rows, int64_t length, const double *restrict scales,
                 int64_t count, float top, double *restrict errors) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t s = 0; s < count; s++) {
            double total = 0;
            for (int64_t k = 0; k < length; k += CHUNK)
                total += near_error(weights + r * length + k, length - k < CHUNK ? length - k : CHUNK,
                                    (float)scales[r * count + s], top);
            errors[r * count + s] = total;
        }
}

/* The same in double, of the grids that are "asked" for alone; the others have an infinite error. */
void squared_errors(const double *restrict weights, int64_t rows, int64_t length, const double *restrict scales,
                    int64_t count, double top, const uint8_t *restrict asked, double *restrict errors) {
    for (int64_t at = 0; at < rows * count; at++)
        errors[at] = asked[at] ? squared_error(weights + at / count * length, length, scales[at], top) : INFINITY;
}
