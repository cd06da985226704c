#include "driver.h"

enum { START = 1, CLEAR = 2, RUNNING = 1, DONE = 2 };

enum engine_status engine_run(const struct engine_port *port, const struct engine_network *network, uint32_t base,
                              uint32_t waits, struct engine_result *result)
{
    uint32_t control;
    if (port->read(port->context, ENGINE_ID) != 0x44534500u + network->lanes)
        return ENGINE_OTHER_DEVICE;
    if (port->read(port->context, ENGINE_CONTROL) & RUNNING)
        return ENGINE_OCCUPIED;
    if (port->clean)
        port->clean(port->context);
    port->write(port->context, ENGINE_CONTROL, CLEAR);
    port->write(port->context, ENGINE_BASE, base);
    port->write(port->context, ENGINE_PROGRAM, network->program_word);
    port->write(port->context, ENGINE_IRQ, 1);
    port->write(port->context, ENGINE_CONTROL, START);
    do {
        port->wait(port->context);
        control = port->read(port->context, ENGINE_CONTROL);
    } while (!(control & DONE) && waits-- > 0);
    port->write(port->context, ENGINE_IRQ, 0);
    result->clocks = port->read(port->context, ENGINE_CLOCKS);
    result->busy = port->read(port->context, ENGINE_BUSY);
    result->error = port->read(port->context, ENGINE_ERROR);
    result->layer = port->read(port->context, ENGINE_LAYER);
    if (!(control & DONE))
        return ENGINE_TIMEOUT;
    if (port->invalidate)
        port->invalidate(port->context);
    return result->error ? ENGINE_FAILED : ENGINE_OK;
}

void engine_put_image(const struct engine_network *network, uint8_t *memory, const uint8_t *pixels)
{
    for (int c = 0; c < network->image_channels; ++c)
        for (long p = 0; p < network->image_pixels; ++p)
            memory[network->image[c] + (uint32_t)p * network->lanes] = *pixels++;
}

long engine_get_head(const struct engine_network *network, const uint8_t *memory, int head, int32_t *acc)
{
    const struct engine_head *map = &network->heads[head];
    for (int c = 0; c < map->channels; ++c)
        for (long p = 0; p < map->pixels; ++p) {
            const uint8_t *at = memory + map->address[c] + (uint32_t)p * 4u * network->lanes;
            const uint32_t word = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
            *acc++ = word >> 31 ? -(int32_t)(~word) - 1 : (int32_t)word;
        }
    return map->channels * map->pixels;
}
