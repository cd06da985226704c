/* Runs the network on the golden images and compares every layer with the golden vectors: check <folder>. */
#include "net.h"
#include "npy.h"

struct check {
    const char *folder;
    int image, layers;
};

static void compare(void *context, int layer, const level_t *levels, const acc_t *acc, long count)
{
    struct check *check = context;
    char path[4096];
    const unsigned char *data;
    int bytes = 0, is_signed;
    unsigned char *content;
    if (layer < 0)
        return;
    snprintf(path, sizeof path, "%s/%d/%03d_%s.npy", check->folder, check->image, layer, levels ? "out" : "acc");
    content = open_npy(path, count, &data, &bytes, &is_signed);
    for (long at = 0; at < count; ++at) {
        const int64_t found = levels ? (int64_t)levels[at] : (int64_t)acc[at];
        const int64_t golden = element(data, bytes, is_signed, at);
        if (found != golden) {
            fprintf(stderr, "%s: element %ld is %ld, but layer %d gives %ld\n", path, at, (long)golden, layer,
                    (long)found);
            exit(1);
        }
    }
    free(content);
    check->layers += 1;
}

int main(int argc, char **argv)
{
    static level_t arena[NET_ARENA];
    static uint8_t image[NET_IMAGE];
    static acc_t room[NET_HEADS][NET_LARGEST_HEAD];
    acc_t *heads[NET_HEADS];
    struct check check = {argc > 1 ? argv[1] : "../golden", 0, 0};

    for (int head = 0; head < NET_HEADS; ++head)
        heads[head] = room[head];
    for (check.image = 0; check.image < NET_GOLDEN; ++check.image) {
        char path[4096];
        const unsigned char *data;
        int bytes = 0, is_signed;
        unsigned char *content;
        snprintf(path, sizeof path, "%s/%d/image.npy", check.folder, check.image);
        content = open_npy(path, NET_IMAGE, &data, &bytes, &is_signed);
        for (long at = 0; at < NET_IMAGE; ++at)
            image[at] = (uint8_t)element(data, bytes, is_signed, at);
        free(content);
        net_run(image, arena, heads, compare, &check);
    }
    printf("C99: %d layers x %d images equal in every element\n", check.layers / NET_GOLDEN, NET_GOLDEN);
    return 0;
}
