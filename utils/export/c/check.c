/* Runs the network on the golden images and compares every layer with the golden vectors: check <folder>. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

struct check {
    const char *folder;
    int image, layers;
};

static unsigned char *read_file(const char *path, long *size)
{
    unsigned char *content = NULL;
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) || (*size = ftell(file)) < 10 || fseek(file, 0, SEEK_SET) ||
        !(content = malloc((size_t)*size)) || fread(content, 1, (size_t)*size, file) != (size_t)*size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        exit(1);
    }
    fclose(file);
    return content;
}

/* Element ``at`` of an npy file's data: little-endian, of 1, 2 or 4 bytes. */
static int64_t element(const unsigned char *data, int bytes, int is_signed, long at)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; ++i)
        value |= (uint64_t)data[at * bytes + i] << (8 * i);
    if (is_signed && value >> (8 * bytes - 1))
        return (int64_t)value - ((int64_t)1 << (8 * bytes));
    return (int64_t)value;
}

static unsigned char *open_npy(const char *path, long count, const unsigned char **data, int *bytes, int *is_signed)
{
    long size;
    unsigned char *content = read_file(path, &size);
    const long head = 10 + content[8] + 256L * content[9];
    char type = 0;
    if (head < size) {
        const char *descr = NULL;
        content[head - 1] = 0; /* the newline that ends the header */
        descr = strstr((const char *)content + 10, "'descr': '");
        if (descr) {
            type = descr[11];
            *bytes = descr[12] - '0';
        }
    }
    if ((type != 'i' && type != 'u') || size - head != count * *bytes) {
        fprintf(stderr, "%s: is no npy file of %ld integers\n", path, count);
        exit(1);
    }
    *is_signed = type == 'i';
    *data = content + head;
    return content;
}

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
