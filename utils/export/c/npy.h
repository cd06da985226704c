/* The golden files, for check.c and boxes.c. */
#ifndef NPY_H
#define NPY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

#endif
