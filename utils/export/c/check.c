/* Runs the network on the golden images and compares every layer with the golden vectors: check <folder>. */
#include "net.h"
#include "npy.h"

struct check {
    const char *folder;
    int image, step, layers;
};

static void compare(void *context, int layer, const void *numbers, int kind, long count)
{
    struct check *check = context;
    char path[4096];
    const unsigned char *data;
    int bytes = 0, is_signed;
    unsigned char *content;
    const int once = NET_STEPS == 1 || kind == STORED_ACC; /* read-outs are sums over the steps */
    if (layer < 0) {
        check->step += 1;
        return;
    }
    snprintf(path, sizeof path, "%s/%d/%03d_%s.npy", check->folder, check->image, layer,
             kind == STORED_ACC ? "acc" : "out");
    content = open_npy(path, once ? count : count * NET_STEPS, &data, &bytes, &is_signed);
    for (long at = 0; at < count; ++at) {
        const int64_t found = net_number(numbers, kind, at);
        const long place = once ? at : check->step * count + at;
        const int64_t golden = element(data, bytes, is_signed, place);
        if (found != golden) {
            fprintf(stderr, "%s: element %ld is %ld, but layer %d gives %ld\n", path, place, (long)golden, layer,
                    (long)found);
            exit(1);
        }
    }
    free(content);
    check->layers += once || check->step == NET_STEPS - 1;
}

int main(int argc, char **argv)
{
    static int64_t arena[NET_ARENA / 8];
    static uint8_t image[NET_IMAGE];
    const acc_t *heads[NET_HEADS];
    struct check check = {argc > 1 ? argv[1] : "../golden", 0, 0, 0};

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
        check.step = -1;
        net_run(image, arena, heads, compare, &check);
    }
    printf("C99: %d layers x %d images equal in every element", check.layers / NET_GOLDEN, NET_GOLDEN);
    if (NET_STEPS > 1)
        printf(" of each of %d steps", NET_STEPS);
    printf("\n");
    return 0;
}
