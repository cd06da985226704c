/* Runs the network again and again on golden image 0 and prints what a frame takes: bench <folder> <frames>. */
#include <time.h>

#include "net.h"
#include "npy.h"

static int smaller_first(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    static int64_t arena[NET_ARENA / 8];
    static uint8_t image[NET_IMAGE];
    const acc_t *heads[NET_HEADS];
    const long frames = argc > 2 ? strtol(argv[2], NULL, 10) : 50;
    double *spent = frames > 0 ? malloc((size_t)frames * sizeof *spent) : NULL;
    char path[4096];
    const unsigned char *data;
    unsigned char *content;
    int bytes = 0, is_signed;

    if (!spent) {
        fprintf(stderr, "bench <folder> <frames>: frames must be a number from 1 up\n");
        return 2;
    }
    snprintf(path, sizeof path, "%s/0/image.npy", argc > 1 ? argv[1] : "../golden");
    content = open_npy(path, NET_IMAGE, &data, &bytes, &is_signed);
    for (long at = 0; at < NET_IMAGE; ++at)
        image[at] = (uint8_t)element(data, bytes, is_signed, at);
    free(content);
    net_run(image, arena, heads, 0, 0);
    for (long k = 0; k < frames; ++k) {
        const clock_t begun = clock();
        net_run(image, arena, heads, 0, 0);
        spent[k] = 1e3 * (double)(clock() - begun) / CLOCKS_PER_SEC;
    }
    qsort(spent, (size_t)frames, sizeof *spent, smaller_first);
    printf("C99: %.2f ms a frame of one thread's time (median of %ld; least %.2f, most %.2f)\n", spent[frames / 2],
           frames, spent[0], spent[frames - 1]);
    free(spent);
    return 0;
}
