/* Runs the engine from a processor: C99, no library, no operating system. `make sim` drives the simulation through it. */
#ifndef ENGINE_DRIVER_H
#define ENGINE_DRIVER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* src/regs.sv says what each does. */
enum {
    ENGINE_CONTROL = 0x00,
    ENGINE_IRQ = 0x04,
    ENGINE_BASE = 0x08,
    ENGINE_PROGRAM = 0x0c,
    ENGINE_CLOCKS = 0x10,
    ENGINE_LAYER = 0x14,
    ENGINE_ERROR = 0x18,
    ENGINE_BUSY = 0x1c,
    ENGINE_ID = 0x20
};

/* How to reach it. `write` and `read` access a 32-bit register; `wait` sleeps until the interrupt, or a while where there is
   none, and returns. Before a run `clean` writes the caches back over the engine's memory, after it `invalidate` drops them; both
   may be null where memory is coherent. */
struct engine_port {
    void *context;
    void (*write)(void *context, uint32_t offset, uint32_t value);
    uint32_t (*read)(void *context, uint32_t offset);
    void (*wait)(void *context);
    void (*clean)(void *context);
    void (*invalidate)(void *context);
};

/* Where a network's maps lie, in bytes from BASE on; network.h has one, `map.txt` the same in text. */
struct engine_head {
    int layer, channels;
    long pixels;
    const uint32_t *address; /* of the first pixel of every channel */
};

struct engine_network {
    uint32_t lanes, program_word;
    int image_channels;
    long image_pixels;
    const uint32_t *image; /* as address above */
    int head_count;
    const struct engine_head *heads;
};

enum engine_status {
    ENGINE_OK,
    ENGINE_OTHER_DEVICE, /* ID is not an engine of this network's lanes */
    ENGINE_OCCUPIED,     /* it runs already */
    ENGINE_TIMEOUT,      /* not done after so many waits */
    ENGINE_FAILED        /* see error */
};

struct engine_result {
    uint32_t clocks, busy;
    uint32_t error; /* bits 31:8 descriptor, 7:0 code */
    uint32_t layer; /* the newest descriptor's */
};

/* One frame: the image is in memory already. base: its bus address, a multiple of 4096. */
enum engine_status engine_run(const struct engine_port *port, const struct engine_network *network, uint32_t base,
                              uint32_t waits, struct engine_result *result);

/* Put an image [channel][y][x] of 8-bit pixels where the program reads it. memory: what BASE points at. */
void engine_put_image(const struct engine_network *network, uint8_t *memory, const uint8_t *pixels);

/* The int32 accumulators [channel][y][x] of read-out `head`, in the order of the layers; returns how many. */
long engine_get_head(const struct engine_network *network, const uint8_t *memory, int head, int32_t *acc);

#ifdef __cplusplus
}
#endif

#endif
