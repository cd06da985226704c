// Runs the engine on one golden image in a memory that may stall, and compares every layer's map, when it is whole, with
// golden/: make sim. The memory's model checks the bursts it is asked for.
//   sim MAP GOLDEN [--stall PERCENT] [--seed N] [--flip] [--clocks FILE]
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "Vtop.h"
#include "driver.h"
#include "verilated.h"

namespace {

constexpr uint64_t kLatency = LATENCY;  // from the Makefile, as the exporter predicts with

[[noreturn]] void fail(const std::string &message) {
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(1);
}

std::vector<uint8_t> read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(path + ": cannot be read");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The integers of an npy file of 1, 2 or 4 bytes each.
struct Tensor {
    std::vector<uint8_t> content;
    size_t start = 0, size = 1;
    bool is_signed = false;

    explicit Tensor(const std::string &path) : content(read_file(path)) {
        if (content.size() < 10 || std::memcmp(content.data(), "\x93NUMPY", 6) != 0) fail(path + ": is no npy file");
        start = 10 + content[8] + 256 * content[9];
        const std::string head(content.begin() + 10, content.begin() + static_cast<long>(start));
        const size_t at = head.find("'descr': '");
        if (at == std::string::npos) fail(path + ": has no descr");
        is_signed = head[at + 11] == 'i';
        size = static_cast<size_t>(head[at + 12] - '0');
    }
    size_t count() const { return (content.size() - start) / size; }
    int64_t operator[](size_t i) const {
        uint64_t word = 0;
        std::memcpy(&word, &content[start + i * size], size);
        const uint64_t top = uint64_t{1} << (8 * size - 1);
        return is_signed && (word & top) ? static_cast<int64_t>(word) - static_cast<int64_t>(2 * top)
                                         : static_cast<int64_t>(word);
    }
};

// Where the channels of a map lie: byte address of each, bytes from a pixel to the next, bytes of an element.
struct Map {
    int layer = -1;
    std::string file;
    size_t channels = 0, pixels = 0, bytes = 1, stride = 8;
    uint64_t predicted = 0;
    std::vector<uint64_t> address;
    std::vector<bool> is_signed;
};

struct Layout {
    size_t lanes = 8, words = 0, program = 0;
    std::string constants, descriptors;
    std::vector<Map> maps;
    uint64_t predicted = 0;
};

Layout read_layout(const std::string &path) {
    std::ifstream file(path);
    if (!file) fail(path + ": cannot be read");
    Layout layout;
    std::string line;
    while (std::getline(file, line)) {
        std::istringstream in(line);
        std::string key;
        in >> key;
        if (key == "lanes") in >> layout.lanes;
        else if (key == "words") in >> layout.words;
        else if (key == "constants") in >> layout.constants;
        else if (key == "program") in >> layout.program >> layout.descriptors;
        else if (key == "predicted") in >> layout.predicted;
        else if (key == "map") {
            Map map;
            in >> map.layer >> map.file >> map.channels >> map.pixels >> map.bytes >> map.stride >> map.predicted;
            for (char sign; in >> sign;) {
                uint64_t at = 0;
                in >> at;
                map.address.push_back(at);
                map.is_signed.push_back(sign == 's');
            }
            if (map.address.size() != map.channels) fail(path + ": a map without all its channels");
            layout.maps.push_back(map);
        }
    }
    return layout;
}

class Bench {
  public:
    Bench(const Layout &layout, const std::string &golden, int stall, unsigned seed, const std::string &folder)
        : layout_(layout), golden_(golden), stall_(stall), random_(seed), memory_(layout.words * layout.lanes, 0xA5) {
        put(0, read_file(folder + layout.constants));
        put(layout.program * layout.lanes, read_file(folder + layout.descriptors));
        network_.lanes = static_cast<uint32_t>(layout.lanes);
        network_.program_word = static_cast<uint32_t>(layout.program);
        places_.reserve(layout.maps.size());
        for (const Map &map : layout.maps) {
            places_.emplace_back(map.address.begin(), map.address.end());
            const int channels = static_cast<int>(map.channels);
            if (map.layer < 0) {
                network_.image_channels = channels;
                network_.image_pixels = static_cast<long>(map.pixels);
                network_.image = places_.back().data();
            } else if (map.bytes == 4) {
                heads_.push_back({map.layer, channels, static_cast<long>(map.pixels), places_.back().data()});
            }
        }
        network_.head_count = static_cast<int>(heads_.size());
        network_.heads = heads_.data();
    }

    void put(size_t at, const std::vector<uint8_t> &content) {
        if (at + content.size() > memory_.size()) fail("a file does not fit its place in memory");
        std::memcpy(&memory_[at], content.data(), content.size());
    }

    void image(bool flip) {
        for (const Map &map : layout_.maps) {
            if (map.layer >= 0) continue;
            const Tensor pixels(golden_ + "/" + map.file);
            std::vector<uint8_t> image(pixels.count());
            for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<uint8_t>(pixels[i]);
            if (flip) image[map.pixels / 2] ^= 0x80;
            engine_put_image(&network_, memory_.data(), image.data());
        }
    }

    void write_register(uint8_t address, uint32_t value) {
        top_.s_awvalid = top_.s_wvalid = top_.s_bready = 1;
        top_.s_awaddr = address;
        top_.s_wdata = value;
        tick();
        if (address == ENGINE_CONTROL && (value & 1)) since_ = now_;
        top_.s_awvalid = top_.s_wvalid = 0;
        tick();
    }

    uint32_t read_register(uint8_t address) {
        top_.s_arvalid = top_.s_rready = 1;
        top_.s_araddr = address;
        tick();
        top_.s_arvalid = 0;
        const uint32_t value = top_.s_rdata;
        tick();
        return value;
    }

    void reset() {
        top_.reset = 1;
        for (int i = 0; i < 4; ++i) tick();
        top_.reset = 0;
    }

    // A frame through the driver.
    engine_result run() {
        engine_port port = {};
        port.context = this;
        port.write = [](void *bench, uint32_t at, uint32_t value) {
            static_cast<Bench *>(bench)->write_register(static_cast<uint8_t>(at), value);
        };
        port.read = [](void *bench, uint32_t at) {
            return static_cast<Bench *>(bench)->read_register(static_cast<uint8_t>(at));
        };
        port.wait = [](void *bench) { static_cast<Bench *>(bench)->wait(); };
        engine_result result = {};
        const engine_status status = engine_run(&port, &network_, 0, 3, &result);
        if (status == ENGINE_FAILED)
            fail("error register: descriptor " + std::to_string(result.error >> 8) + ", code " +
                 std::to_string(result.error & 255) + (result.error % 256 == 1 ? " (it is damaged)" : ""));
        if (status != ENGINE_OK) fail("driver: status " + std::to_string(status));
        return result;
    }

    // Until the interrupt; every map is compared when its layer is done.
    void wait() {
        const uint64_t limit = now_ + 100 * layout_.predicted + 100000;
        while (!top_.irq) {
            tick();
            if (now_ > limit) fail("the engine does not end: layer " + std::to_string(top_.layer));
        }
    }

    // The driver's view of the read-outs, when all is done.
    void heads() {
        for (size_t k = 0; k < heads_.size(); ++k) {
            const engine_head &head = heads_[k];
            std::vector<int32_t> acc(static_cast<size_t>(head.channels * head.pixels));
            engine_get_head(&network_, memory_.data(), static_cast<int>(k), acc.data());
            char name[32];
            std::snprintf(name, sizeof name, "/%03d_acc.npy", head.layer);
            const Tensor golden(golden_ + name);
            for (size_t i = 0; i < acc.size(); ++i)
                if (golden[i] != acc[i]) fail("driver: head " + std::to_string(k) + " is not what golden has");
        }
    }

    void compare(int layer) {
        const uint64_t clocks = now_ - since_;
        since_ = now_;
        for (const Map &map : layout_.maps) {
            if (map.layer != layer) continue;
            ++compared;
            per_layer.push_back({layer, clocks, map.predicted});
            const Tensor golden(golden_ + "/" + map.file);
            size_t wrong = 0, first = 0;
            int64_t found = 0;
            if (golden.count() % (map.channels * map.pixels) != 0) fail(map.file + ": has another size than the map");
            const size_t last = golden.count() - map.channels * map.pixels;  // where golden has steps, the last one
            for (size_t c = 0; c < map.channels; ++c)
                for (size_t p = 0; p < map.pixels; ++p) {
                    const size_t at = map.address[c] + p * map.stride;
                    int64_t value = map.is_signed[c] ? static_cast<int8_t>(memory_[at]) : memory_[at];
                    if (map.bytes == 4) {
                        int32_t word = 0;
                        std::memcpy(&word, &memory_[at], 4);
                        value = word;
                    }
                    ++elements;
                    if (value != golden[last + c * map.pixels + p] && wrong++ == 0) {
                        first = last + c * map.pixels + p;
                        found = value;
                    }
                }
            if (wrong) {
                char text[512];
                std::snprintf(text, sizeof text,
                              "layer %d: %s: element %zu is %" PRId64 ", but the engine gives %" PRId64
                              " (%zu of %zu elements differ)",
                              layer, map.file.c_str(), first, golden[first], found, wrong, golden.count());
                fail(text);
            }
        }
    }

    struct Clocks {
        int layer;
        uint64_t clocks, predicted;
    };
    std::vector<Clocks> per_layer;
    int compared = 0;
    size_t elements = 0;
    uint64_t read_bytes = 0, written_bytes = 0;

  private:
    struct Burst {
        uint64_t from, address, left;
    };

    bool stalls() { return stall_ > 0 && static_cast<int>(random_() % 100) < stall_; }

    void check_burst(uint32_t address, unsigned beats, const char *name) {
        const uint64_t end = address + beats * layout_.lanes;
        if (address / 4096 != (end - 1) / 4096) fail(std::string(name) + ": a burst crosses 4 KiB");
        if (end > memory_.size()) fail(std::string(name) + ": a burst leaves the memory at byte " + std::to_string(end));
    }

    void tick() {
        const size_t lanes = layout_.lanes;
        top_.m_arready = !stalls();
        top_.m_awready = !stalls();
        top_.m_wready = !stalls();
        const bool answer = !reads_.empty() && now_ >= reads_.front().from && (held_ || !stalls());
        held_ = answer;
        top_.m_rvalid = answer;
        top_.m_rresp = top_.m_bresp = 0;
        top_.m_rlast = answer && reads_.front().left == 1;
        if (answer) std::memcpy(&top_.m_rdata, &memory_[reads_.front().address], lanes);
        const bool acknowledged = !answers_.empty() && now_ >= answers_.front() && (!stalls() || acknowledging_);
        acknowledging_ = acknowledged;
        top_.m_bvalid = acknowledged;
        top_.clk = 0;
        top_.eval();
        const bool ar = top_.m_arvalid && top_.m_arready, aw = top_.m_awvalid && top_.m_awready;
        const bool w = top_.m_wvalid && top_.m_wready, r = answer && top_.m_rready, b = acknowledged && top_.m_bready;
        if (ar) {
            check_burst(top_.m_araddr, top_.m_arlen + 1U, "read");
            reads_.push_back({now_ + kLatency, top_.m_araddr, top_.m_arlen + 1U});
        }
        if (w) {
            if (writes_.empty()) fail("write: data without an address");
            Burst &burst = writes_.front();
            std::memcpy(&memory_[burst.address], &top_.m_wdata, lanes);
            written_bytes += lanes;
            burst.address += lanes;
            if ((--burst.left == 0) != (top_.m_wlast != 0)) fail("write: wlast is not at the end of a burst");
            if (burst.left == 0) {
                writes_.pop_front();
                answers_.push_back(now_ + kLatency);
            }
        }
        if (aw) {
            check_burst(top_.m_awaddr, top_.m_awlen + 1U, "write");
            writes_.push_back({now_, top_.m_awaddr, top_.m_awlen + 1U});
        }
        if (r) {
            held_ = false;
            read_bytes += lanes;
            reads_.front().address += lanes;
            if (--reads_.front().left == 0) {
                reads_.pop_front();
                if (!reads_.empty() && reads_.front().from < now_ + 1) reads_.front().from = now_ + 1;
            }
        }
        if (b) {
            acknowledging_ = false;
            answers_.pop_front();
        }
        top_.clk = 1;
        top_.eval();
        ++now_;
        if (top_.layer_done) compare(top_.layer);
    }

    const Layout &layout_;
    std::string golden_;
    int stall_;
    std::mt19937 random_;
    std::vector<uint8_t> memory_;
    std::vector<std::vector<uint32_t>> places_;
    std::vector<engine_head> heads_;
    engine_network network_ = {};
    Vtop top_;
    std::deque<Burst> reads_, writes_;
    std::deque<uint64_t> answers_;
    bool held_ = false, acknowledging_ = false;
    uint64_t now_ = 0, since_ = 0;
};

}  // namespace

int main(int argc, char **argv) {
    if (argc < 3) fail("usage: sim MAP GOLDEN [--stall PERCENT] [--seed N] [--flip] [--clocks FILE]");
    const std::string path = argv[1], golden = argv[2];
    std::string clocks_file;
    int stall = 0;
    unsigned seed = 0;
    bool flip = false;
    for (int i = 3; i < argc; ++i) {
        const std::string flag = argv[i];
        if (flag == "--flip") flip = true;
        else if (i + 1 == argc) fail(flag + ": needs a value");
        else if (flag == "--stall") stall = std::atoi(argv[++i]);
        else if (flag == "--seed") seed = static_cast<unsigned>(std::atoi(argv[++i]));
        else if (flag == "--clocks") clocks_file = argv[++i];
        else fail(flag + ": unknown");
    }
    const Layout layout = read_layout(path);
    Bench bench(layout, golden, stall, seed, path.substr(0, path.rfind('/') + 1));
    bench.image(flip);
    bench.reset();
    const engine_result result = bench.run();
    const uint32_t clocks = result.clocks, busy = result.busy;
    bench.heads();
    int maps = 0;
    for (const Map &map : layout.maps) maps += map.layer >= 0;
    if (bench.compared != maps) fail("only " + std::to_string(bench.compared) + " of " + std::to_string(maps) + " maps were made");
    if (!clocks_file.empty()) {
        std::ofstream out(clocks_file);
        out << "layer,clocks,predicted\n";
        for (const auto &each : bench.per_layer) out << each.layer << ',' << each.clocks << ',' << each.predicted << '\n';
    }
    std::printf("engine: %d layers, %zu elements equal; %u clocks (%" PRIu64 " predicted), the array busy in %.1f %%, "
                "%" PRIu64 " bytes read, %" PRIu64 " written; stalls %d %%, seed %u\n",
                maps, bench.elements, clocks, layout.predicted, 100.0 * busy / clocks, bench.read_bytes,
                bench.written_bytes, stall, seed);
    if (stall == 0 && clocks != layout.predicted) fail("without stalls the engine takes another number of clocks than predicted");
    return 0;
}
