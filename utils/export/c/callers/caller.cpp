// The network called from C++: caller_cpp image.npy prints the largest accumulator of each head and where it is.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" {
#include "net.h"
}

int main(int argc, char **argv)
{
    std::ifstream file(argc > 1 ? argv[1] : "../golden/0/image.npy", std::ios::binary);
    const std::vector<uint8_t> npy{std::istreambuf_iterator<char>(file), {}};
    if (npy.size() < NET_IMAGE) {
        std::fprintf(stderr, "no image of %d pixels there\n", NET_IMAGE);
        return 1;
    }
    std::vector<int64_t> arena(NET_ARENA / sizeof(int64_t)); // aligned as net_run wants it
    const acc_t *heads[NET_HEADS];
    const long sizes[] = NET_HEAD_SIZES;
    net_run(&npy[npy.size() - NET_IMAGE], arena.data(), heads, nullptr, nullptr); // pixels are the end of the file
    for (int k = 0; k < NET_HEADS; ++k) {
        const acc_t *top = std::max_element(heads[k], heads[k] + sizes[k]);
        std::printf("head %d: %lld at %ld\n", k, static_cast<long long>(*top), static_cast<long>(top - heads[k]));
    }
}
