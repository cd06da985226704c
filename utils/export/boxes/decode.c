#include "decode.h"

#include <math.h>
#include <stdlib.h>

#define HEADS_TABLE
#include "heads.h"

const char *const class_names[] = {HEAD_NAMES};

static float logistic(float x)
{
    return (float)(1 / (1 + exp(-(double)x)));
}

/* Channel k of an anchor at a cell. */
static float value(const struct head *head, const acc_t *acc, int anchor, int k, long cell)
{
    const long channel = (long)anchor * (5 + head->classes) + k;
    const float raw = (float)((double)acc[channel * head->high * head->wide + cell] * head->unit[channel]);
    return head->logistic ? logistic(raw) : raw;
}

/* The best class and its score. */
static float best(const struct head *head, const acc_t *acc, int anchor, long cell, int *label)
{
    float objectness = value(head, acc, anchor, 4, cell), top = 0;
    double sum = 0;
    for (int k = 0; k < head->classes; ++k) {
        const float now = value(head, acc, anchor, 5 + k, cell);
        if (k == 0 || now > top) {
            top = now;
            *label = k;
        }
    }
    if (head->new_coords)
        return objectness * top;
    objectness = logistic(objectness);
    if (!head->softmax)
        return objectness * logistic(top);
    for (int k = 0; k < head->classes; ++k)
        sum += exp((double)value(head, acc, anchor, 5 + k, cell) - top);
    return (float)(objectness / sum);
}

static struct box box_at(const struct head *head, const acc_t *acc, int anchor, int row, int column)
{
    const long cell = (long)row * head->wide + column;
    const int place[2] = {column, row};
    float centre[2], half[2];
    struct box found = {0, 0, 0, 0, 0, 0, 0};
    for (int axis = 0; axis < 2; ++axis) {
        float xy = value(head, acc, anchor, axis, cell), wh = value(head, acc, anchor, 2 + axis, cell);
        const float side = head->anchors[2 * anchor + axis];
        if (head->new_coords)
            wh = 4 * wh * wh * side;
        else {
            xy = logistic(xy);
            wh = expf(wh < 8 ? wh : 8) * side;
        }
        centre[axis] = (xy * head->scale_x_y - head->reach + (float)place[axis]) * head->cell[axis];
        half[axis] = wh / 2;
    }
    found.x1 = centre[0] - half[0];
    found.y1 = centre[1] - half[1];
    found.x2 = centre[0] + half[0];
    found.y2 = centre[1] + half[1];
    return found;
}

static int better(const void *one, const void *other)
{
    const struct box *a = one, *b = other;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* IoU; less (d^2 / c^2)^power of the centres' distance and the diagonal round both, in shares of the image, where asked. */
static double overlap_of(const struct box *a, const struct box *b)
{
    const double wide = HEAD_POWER > 0 ? HEAD_WIDE : 1, high = HEAD_POWER > 0 ? HEAD_HIGH : 1;
    const double ax1 = a->x1 / wide, ay1 = a->y1 / high, ax2 = a->x2 / wide, ay2 = a->y2 / high;
    const double bx1 = b->x1 / wide, by1 = b->y1 / high, bx2 = b->x2 / wide, by2 = b->y2 / high;
    const double across = larger(0, -larger(-ax2, -bx2) - larger(ax1, bx1));
    const double down = larger(0, -larger(-ay2, -by2) - larger(ay1, by1)), both = across * down;
    const double iou = both / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both);
    if (HEAD_POWER > 0) {
        const double dx = (ax1 + ax2 - bx1 - bx2) / 2, dy = (ay1 + ay2 - by1 - by2) / 2;
        const double cx = larger(ax2, bx2) + larger(-ax1, -bx1), cy = larger(ay2, by2) + larger(-ay1, -by1);
        return iou - pow((dx * dx + dy * dy) / (cx * cx + cy * cy), HEAD_POWER);
    }
    return iou;
}

long decode_boxes(const acc_t *const heads[NET_HEADS], struct box *room, float confidence, double overlap)
{
    long count = 0, place = 0, kept = 0;
    for (unsigned h = 0; h < sizeof all_heads / sizeof *all_heads; ++h) {
        const struct head *head = &all_heads[h];
        const acc_t *acc = heads[head->source];
        for (int anchor = 0; anchor < head->count; ++anchor)
            for (int row = 0; row < head->high; ++row)
                for (int column = 0; column < head->wide; ++column, ++place) {
                    int label = 0;
                    const float score = best(head, acc, anchor, (long)row * head->wide + column, &label);
                    if (score > confidence) {
                        room[count] = box_at(head, acc, anchor, row, column);
                        room[count].score = score;
                        room[count].label = label;
                        room[count++].place = place;
                    }
                }
    }
    qsort(room, (size_t)count, sizeof *room, better);
    if (count > HEAD_CANDIDATES)
        count = HEAD_CANDIDATES;
    for (long i = 0; i < count && kept < HEAD_BOXES_KEPT; ++i) {
        int stays = 1;
        for (long j = 0; j < kept && stays; ++j)
            stays = room[j].label != room[i].label || !(overlap_of(&room[j], &room[i]) > overlap);
        if (stays)
            room[kept++] = room[i];
    }
    return kept;
}
