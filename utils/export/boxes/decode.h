/* From the heads' accumulators to boxes; the only floating point, and it comes after the network. */
#ifndef DECODE_H
#define DECODE_H

#include "net.h"

struct box {
    float x1, y1, x2, y2; /* px of the network's image */
    float score;
    int label;
    long place; /* among all boxes of all heads: equal scores keep this order */
};

/* Boxes whose score is above ``confidence``, best first; of those of a class that overlap more than ``overlap`` the best.
    heads: what net_run gave
    room: HEAD_BOXES boxes
    returns how many there are, at the start of room */
long decode_boxes(const acc_t *const heads[NET_HEADS], struct box *room, float confidence, double overlap);

/* Class names, by label. */
extern const char *const class_names[];

#endif
