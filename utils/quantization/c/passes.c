/* What becomes of accumulators between two convolutions, in one pass: see byte_levels.py, which does the same in several.

   Numbers are integers, or integers over a power of two, below 2^53 throughout, so double loses nothing of them and a
   fused multiply-add changes nothing. "gain" and the like hold one number for each of the "width" values of a row. */

#include <stdint.h>

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

/* Max pool of one map, channels last; "before" px of padding, which is never the maximum, and whatever of it a window
   needs after the map. */
void max_pool(const uint8_t *restrict in, uint8_t *restrict out, int64_t height, int64_t width, int64_t channels,
              int64_t made_height, int64_t made_width, int64_t size, int64_t stride, int64_t before) {
    for (int64_t y = 0; y < made_height; y++)
        for (int64_t x = 0; x < made_width; x++, out += channels) {
            int64_t top = y * stride - before, left = x * stride - before;
            for (int64_t c = 0; c < channels; c++)
                out[c] = 0;
            for (int64_t v = top < 0 ? 0 : top; v < top + size && v < height; v++)
                for (int64_t u = left < 0 ? 0 : left; u < left + size && u < width; u++) {
                    const uint8_t *pixel = in + (v * width + u) * channels;
                    for (int64_t c = 0; c < channels; c++)
                        out[c] = pixel[c] > out[c] ? pixel[c] : out[c];
                }
        }
}
