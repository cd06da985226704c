/* Runs the network on the golden images, decodes, and compares with golden/K/boxes.json: boxes <folder>. */
#include <math.h>

#include "decode.h"
#include "heads.h"
#include "npy.h"

/* The number behind the next ``key`` of the text, which moves on. */
static double number_behind(const char **text, const char *key, const char *path)
{
    const char *found = *text ? strstr(*text, key) : NULL;
    if (!found) {
        fprintf(stderr, "%s: has no further %s\n", path, key);
        exit(1);
    }
    *text = found + strlen(key);
    return strtod(*text, (char **)(void *)text);
}

static void compare(const char *path, const struct box *boxes, long count)
{
    long size, golden = 0;
    unsigned char *content = read_file(path, &size);
    const char *text = (const char *)content;
    content[size - 1] = 0; /* the last newline */
    while (strstr(text, "\"class\": ")) {
        double other[6], side = 100;
        other[5] = number_behind(&text, "\"class\": ", path);
        other[4] = number_behind(&text, "\"score\": ", path);
        for (int k = 0; k < 4; ++k) {
            other[k] = number_behind(&text, k ? "," : "\"xyxy\": [", path);
            side = fabs(other[k]) > side ? fabs(other[k]) : side;
        }
        if (golden < count) {
            const struct box *box = &boxes[golden];
            const double mine[6] = {box->x1, box->y1, box->x2, box->y2, box->score, box->label};
            for (int k = 0; k < 6; ++k)
                if (fabs(mine[k] - other[k]) > (k < 4 ? 1e-4 * side : 1e-4)) {
                    fprintf(stderr, "%s: box %ld has %g, decoded %g\n", path, golden, other[k], mine[k]);
                    exit(1);
                }
        }
        ++golden;
    }
    if (golden != count) {
        fprintf(stderr, "%s: %ld boxes, decoded %ld\n", path, golden, count);
        exit(1);
    }
    free(content);
}

int main(int argc, char **argv)
{
    static int64_t arena[NET_ARENA / 8];
    uint8_t *image = (uint8_t *)arena + NET_IMAGE_AT; /* in its place already: nothing is copied, nothing kept */
    static struct box boxes[HEAD_BOXES];
    const char *folder = argc > 1 ? argv[1] : "../golden";
    const acc_t *heads[NET_HEADS];
    long all = 0;

    for (int k = 0; k < NET_GOLDEN; ++k) {
        char path[4096];
        const unsigned char *data;
        unsigned char *content;
        int bytes = 0, is_signed;
        long count;
        snprintf(path, sizeof path, "%s/%d/image.npy", folder, k);
        content = open_npy(path, NET_IMAGE, &data, &bytes, &is_signed);
        for (long at = 0; at < NET_IMAGE; ++at)
            image[at] = (uint8_t)element(data, bytes, is_signed, at);
        free(content);
        net_run(NULL, arena, heads, 0, 0);
        count = decode_boxes(heads, boxes, HEAD_CONFIDENCE, HEAD_OVERLAP);
        for (long n = 0; n < count; ++n)
            printf("golden/%d: %s %.3f at %.1f, %.1f, %.1f, %.1f\n", k, class_names[boxes[n].label],
                   (double)boxes[n].score, (double)boxes[n].x1, (double)boxes[n].y1, (double)boxes[n].x2,
                   (double)boxes[n].y2);
        snprintf(path, sizeof path, "%s/%d/boxes.json", folder, k);
        compare(path, boxes, count);
        all += count;
    }
    printf("C99: %ld boxes of %d images as in boxes.json\n", all, NET_GOLDEN);
    return 0;
}
