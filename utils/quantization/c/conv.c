/* A convolution of bytes by int8 weights and the requantisation of its sums, on processors whose vectors multiply bytes
   (AVX512-VNNI): see byte_conv.py. Sums are int32, as the definition has them: whatever the order, the same numbers.

   Maps lie channels last. Weights are packed for vectors of 16 filters: [filters / 16][size * size][channels / 4][16][4],
   those of a depthwise layer as int32 [size * size][channels up to 16 more]; numbers of filters that are not there are 0. */

#include <stdint.h>
#include <string.h>

typedef struct {
    int64_t images, height, width, channels; /* of what is read, its border and whole fours of channels included */
    int64_t made_height, made_width, filters;
    int64_t size, stride_y, stride_x, dilation;
    const int8_t *weight;
    const int32_t *bias; /* less the sums of what is stored for a level of 0 */
    const double *gain, *negative;
    const float *gain32, *negative32;
    double offset, low, high;
    int64_t bent, exact32, sums; /* gains below 0 of their own; float32 holds every number; sums are what is wanted */
    int64_t threads;
} Conv;

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include <immintrin.h>

#define LANES 16
#define TAPS 64 /* the most that a kernel has */

int has_conv(void) { return 1; }

/* 8 sums as doubles, through gain and offset, cut into a byte each. */
static inline __m256i in_doubles(const Conv *by, __m256i sum, int64_t c) {
    __m512d value = _mm512_cvtepi32_pd(sum), gain = _mm512_loadu_pd(by->gain + c);
    if (by->bent)
        gain = _mm512_mask_loadu_pd(gain, _mm512_cmp_pd_mask(value, _mm512_setzero_pd(), _CMP_LT_OQ), by->negative + c);
    value = _mm512_fmadd_pd(value, gain, _mm512_set1_pd(by->offset));
    value = _mm512_min_pd(_mm512_max_pd(value, _mm512_set1_pd(by->low)), _mm512_set1_pd(by->high));
    return _mm512_cvttpd_epi32(value);
}

/* 16 sums of channels from c on -> bytes; or themselves as float32, which holds what is asked for so.

   With exact32 float32 gives the number itself. Else it is off by 2^-13 at most between -2 and 258 (three roundings of
   numbers under 400), so that the byte is right unless it comes as near to a whole number; those are made in doubles. */
static inline void put(const Conv *by, __m512i sum, int64_t c, void *made, int64_t at, __mmask16 there) {
    uint8_t *out = (uint8_t *)made + at;
    sum = _mm512_add_epi32(sum, _mm512_loadu_si512(by->bias + c));
    __m512 value = _mm512_cvtepi32_ps(sum);
    if (by->sums) {
        _mm512_mask_storeu_ps((float *)made + at, there, value);
        return;
    }
    __m512 gain = _mm512_loadu_ps(by->gain32 + c);
    if (by->bent)
        gain = _mm512_mask_loadu_ps(gain, _mm512_movepi32_mask(sum), by->negative32 + c);
    value = _mm512_fmadd_ps(value, gain, _mm512_set1_ps((float)by->offset));
    if (!by->exact32) {
        value = _mm512_min_ps(_mm512_max_ps(value, _mm512_set1_ps(-1.5f)), _mm512_set1_ps(257.5f));
        __m512 apart = _mm512_reduce_ps(value, 0); /* less the nearest whole number */
        if (_mm512_cmp_ps_mask(_mm512_abs_ps(apart), _mm512_set1_ps(0x1p-13f), _CMP_LE_OQ) & there) {
            __m256i first = in_doubles(by, _mm512_castsi512_si256(sum), c);
            __m256i second = in_doubles(by, _mm512_extracti64x4_epi64(sum, 1), c + LANES / 2);
            __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
            _mm_mask_storeu_epi8(out, there, _mm512_cvtepi32_epi8(both));
            return;
        }
    }
    value = _mm512_min_ps(_mm512_max_ps(value, _mm512_set1_ps((float)by->low)), _mm512_set1_ps((float)by->high));
    _mm_mask_storeu_epi8(out, there, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(value)));
}

/* Where the window of an output pixel begins, pixel after pixel. */
typedef struct {
    int64_t x, y, n;
    const uint8_t *window;
} Place;

static inline void find(const Conv *by, Place *at, const uint8_t *in) {
    int64_t line = (at->n * by->height + at->y * by->stride_y) * by->width;
    at->window = in + (line + at->x * by->stride_x) * by->channels;
}

static inline Place place_of(const Conv *by, const uint8_t *in, int64_t pixel) {
    int64_t line = pixel / by->made_width;
    Place at = {pixel % by->made_width, line % by->made_height, line / by->made_height, in};
    find(by, &at, in);
    return at;
}

static inline void advance(const Conv *by, Place *at, const uint8_t *in) {
    at->window += by->stride_x * by->channels;
    if (++at->x == by->made_width) {
        at->x = 0;
        if (++at->y == by->made_height) {
            at->y = 0;
            at->n++;
        }
        find(by, at, in);
    }
}

static inline int64_t taps_of(const Conv *by, int64_t taps[TAPS]) {
    int64_t count = 0;
    for (int64_t v = 0; v < by->size; v++)
        for (int64_t u = 0; u < by->size; u++)
            taps[count++] = (v * by->width + u) * by->dilation * by->channels;
    return count;
}

/* PIXELS by VECTORS * 16 filters from c on, for the pixels "from" to "to". */
#define BLOCK(NAME, PIXELS, VECTORS)                                                                                     \
    static void NAME(const Conv *by, const uint8_t *in, void *out, int64_t from, int64_t to, int64_t c,                  \
                     const int64_t *taps, int64_t count) {                                                               \
        const Conv own = *by; /* no byte that is written lies in it */                                                   \
        by = &own;                                                                                                       \
        int64_t quads = by->channels / 4, next = count * quads * 64;                                                     \
        int64_t left = by->filters - c - (VECTORS - 1) * LANES;                                                          \
        __mmask16 last = left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1);                                         \
        Place place = place_of(by, in, from);                                                                                \
        for (int64_t pixel = from; pixel < to; pixel += PIXELS) {                                                        \
            const uint8_t *at[PIXELS];                                                                                   \
            int64_t here = to - pixel < PIXELS ? to - pixel : PIXELS;                                                    \
            for (int64_t p = 0; p < PIXELS; p++) {                                                                       \
                at[p] = p < here ? place.window : at[0];                                                                 \
                if (p < here)                                                                                            \
                    advance(by, &place, in);                                                                             \
            }                                                                                                            \
            __m512i sums[PIXELS][VECTORS];                                                                               \
            for (int p = 0; p < PIXELS; p++)                                                                             \
                for (int v = 0; v < VECTORS; v++)                                                                        \
                    sums[p][v] = _mm512_setzero_si512();                                                                 \
            const int8_t *weight = by->weight + c / LANES * next;                                                        \
            for (int64_t t = 0; t < count; t++)                                                                          \
                for (int64_t q = taps[t], end = q + 4 * quads; q < end; q += 4, weight += 64) {                          \
                    __m512i by_filter[VECTORS];                                                                          \
                    for (int v = 0; v < VECTORS; v++)                                                                    \
                        by_filter[v] = _mm512_loadu_si512(weight + v * next);                                            \
                    for (int p = 0; p < PIXELS; p++) {                                                                   \
                        int32_t four;                                                                                    \
                        memcpy(&four, at[p] + q, 4);                                                                     \
                        __m512i pixels = _mm512_set1_epi32(four);                                                        \
                        for (int v = 0; v < VECTORS; v++)                                                                \
                            sums[p][v] = _mm512_dpbusd_epi32(sums[p][v], pixels, by_filter[v]);                          \
                    }                                                                                                    \
                }                                                                                                        \
            for (int p = 0; p < PIXELS; p++)                                                                             \
                if (p < here)                                                                                            \
                    for (int v = 0; v < VECTORS; v++)                                                                    \
                        put(by, sums[p][v], c + v * LANES, out, (pixel + p) * by->filters + c + v * LANES,               \
                            v + 1 < VECTORS ? 0xffff : last);                                                            \
        }                                                                                                                \
    }

BLOCK(of_four, 6, 4)
BLOCK(of_two, 12, 2)
BLOCK(of_one, 12, 1)

static void dense(const Conv *by, const uint8_t *in, void *out, int64_t from, int64_t to) {
    int64_t taps[TAPS], count = taps_of(by, taps), vectors = (by->filters + LANES - 1) / LANES, v = 0;
    for (; v + 4 <= vectors; v += 4)
        of_four(by, in, out, from, to, v * LANES, taps, count);
    for (; v + 2 <= vectors; v += 2)
        of_two(by, in, out, from, to, v * LANES, taps, count);
    for (; v < vectors; v++)
        of_one(by, in, out, from, to, v * LANES, taps, count);
}

/* 16 channels of a depthwise layer: a byte and a weight in 16 bits each, beside 0, are their product. */
static inline __attribute__((always_inline)) void channels_of(const Conv *by, const uint8_t *at, const int32_t *weight,
                                                              const int64_t *taps, int64_t count, int64_t c, void *out,
                                                              int64_t pixel, __mmask16 there, int all) {
    __m512i sums[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    int64_t wide = (by->filters + LANES - 1) / LANES * LANES;
    for (int64_t t = 0; t < count; t++) {
        const uint8_t *from = at + taps[t] + c;
        __m128i bytes = all ? _mm_loadu_si128((const __m128i *)from) : _mm_maskz_loadu_epi8(there, from);
        __m512i term = _mm512_loadu_si512(weight + t * wide + c);
        sums[t & 1] = _mm512_dpwssd_epi32(sums[t & 1], _mm512_cvtepu8_epi32(bytes), term);
    }
    put(by, _mm512_add_epi32(sums[0], sums[1]), c, out, pixel * by->filters + c, there);
}

static inline __attribute__((always_inline)) void depthwise_of(const Conv *by, const uint8_t *in, void *out, int64_t from,
                                                               int64_t to, const int64_t *taps, int64_t count) {
    const Conv own = *by;
    const int32_t *weight = (const int32_t *)by->weight;
    by = &own;
    Place place = place_of(by, in, from);
    for (int64_t pixel = from; pixel < to; pixel++, advance(by, &place, in)) {
        int64_t c = 0;
        for (; c + LANES <= by->filters; c += LANES)
            channels_of(by, place.window, weight, taps, count, c, out, pixel, 0xffff, 1);
        if (c < by->filters)
            channels_of(by, place.window, weight, taps, count, c, out, pixel,
                        (__mmask16)((1u << (by->filters - c)) - 1), 0);
    }
}

static void depthwise(const Conv *by, const uint8_t *in, void *out, int64_t from, int64_t to) {
    int64_t taps[TAPS], count = taps_of(by, taps);
    if (count == 9)
        depthwise_of(by, in, out, from, to, taps, 9); /* which the compiler unrolls */
    else
        depthwise_of(by, in, out, from, to, taps, count);
}

typedef void Part(const Conv *, const uint8_t *, void *, int64_t, int64_t);

static void in_parts(const Conv *by, const uint8_t *in, void *out, Part *part) {
    int64_t pixels = by->images * by->made_height * by->made_width;
    int64_t share = (pixels / by->threads + 11) / 12 * 12 + 12;
#ifdef _OPENMP
#pragma omp parallel for num_threads(by->threads) if (by->threads > 1)
#endif
    for (int64_t from = 0; from < pixels; from += share)
        part(by, in, out, from, from + share < pixels ? from + share : pixels);
}

void conv(const Conv *by, const uint8_t *in, void *out) { in_parts(by, in, out, dense); }

void conv_depthwise(const Conv *by, const uint8_t *in, void *out) { in_parts(by, in, out, depthwise); }

#else

int has_conv(void) { return 0; }

void conv(const Conv *by, const uint8_t *in, void *out) { (void)by, (void)in, (void)out; }

void conv_depthwise(const Conv *by, const uint8_t *in, void *out) { (void)by, (void)in, (void)out; }

#endif

/* A map with "pad" px of "zero" around it and "wide" channels a pixel, of which the last are 0. */
void frame(const uint8_t *restrict in, uint8_t *restrict out, int64_t images, int64_t height, int64_t width,
           int64_t channels, int64_t pad, int64_t wide, int64_t zero) {
    int64_t line = (width + 2 * pad) * wide;
    for (int64_t n = 0; n < images; n++) {
        memset(out, (int)zero, (size_t)(pad * line));
        out += pad * line;
        for (int64_t y = 0; y < height; y++, out += line) {
            memset(out, (int)zero, (size_t)(pad * wide));
            uint8_t *to = out + pad * wide;
            if (wide == channels)
                memcpy(to, in, (size_t)(width * channels)), in += width * channels;
            else if (wide == 4 && channels == 3)
                for (int64_t x = 0; x < width; x++, in += 3, to += 4)
                    to[0] = in[0], to[1] = in[1], to[2] = in[2], to[3] = 0;
            else
                for (int64_t x = 0; x < width; x++, in += channels, to += wide) {
                    memcpy(to, in, (size_t)channels);
                    memset(to + channels, 0, (size_t)(wide - channels));
                }
            memset(out + (pad + width) * wide, (int)zero, (size_t)(pad * wide));
        }
        memset(out, (int)zero, (size_t)(pad * line));
        out += pad * line;
    }
}
