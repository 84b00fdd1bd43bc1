// The emulator without Python: feeds a file of link words (shootdown/linkfile.py) to the Verilated RTL as fast as it
// takes them, counts its records, and prints what came of it as one line of JSON.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

namespace {

constexpr uint64_t kOpAdvance = 12;     // Op and Event of secmmu/layouts.py
constexpr uint32_t kEventAdvanced = 0;
constexpr int kResetClocks = 4;
// Clocks without a word taken, a record, or a cycle passed, after which the file cannot be what was recorded.
constexpr uint64_t kStuckClocks = 1000000;

struct Link {
    uint64_t cycles = 0, records = 0;
    std::vector<uint64_t> words;
};

bool load(const char* path, Link& link) {
    std::unique_ptr<FILE, int (*)(FILE*)> file{std::fopen(path, "rb"), std::fclose};
    char magic[8];
    uint64_t header[3];
    if (!file || std::fread(magic, 8, 1, file.get()) != 1 || std::memcmp(magic, "SDLINK1\n", 8) != 0) return false;
    if (std::fread(header, 8, 3, file.get()) != 3) return false;
    link.cycles = header[0];
    link.records = header[1];
    link.words.resize(header[2]);
    return std::fread(link.words.data(), 8, header[2], file.get()) == header[2];
}

uint64_t count_advances(const std::vector<uint64_t>& words) {
    uint64_t advances = 0;
    for (size_t i = 0; i < words.size(); i += 1 + (words[i] >> 16 & 0xffff)) advances += (words[i] & 0xff) == kOpAdvance;
    return advances;
}

}  // namespace

int main(int argc, char** argv) {
    Verilated::commandArgs(argc, argv);
    Link link;
    if (argc < 2 || !load(argv[1], link)) {
        std::fprintf(stderr, "not a file of link words: %s\n", argc < 2 ? "(none)" : argv[1]);
        return 2;
    }
    // Verilator spells a double underscore ___05F.
    const auto top = std::make_unique<Vtop>();
    top->clk = 0;
    top->rst = 1;
    for (int i = 0; i < 2 * kResetClocks; ++i) {
        top->clk = !top->clk;
        top->eval();
    }
    top->rst = 0;
    top->records___05Fready = 1;

    const uint64_t owed = count_advances(link.words);
    const size_t size = link.words.size();
    uint64_t advanced = 0, records = 0, clocks = 0, moved = 0, last_cycle = 0;
    size_t position = 0;
    const std::clock_t begin = std::clock();
    while (position < size || advanced < owed) {
        top->request___05Fvalid = position < size;
        if (position < size) top->request___05Fpayload = link.words[position];
        top->clk = 0;
        top->eval();
        const bool taken = top->request___05Fvalid && top->request___05Fready;
        if (top->records___05Fvalid) {
            ++records;
            advanced += (top->records___05Fpayload[0] & 0xff) == kEventAdvanced;
        }
        if (taken || top->records___05Fvalid || top->cycle != last_cycle) {
            moved = clocks;
            last_cycle = top->cycle;
        } else if (clocks - moved > kStuckClocks) {
            std::fprintf(stderr, "stuck at cycle %llu, word %zu\n", static_cast<unsigned long long>(top->cycle), position);
            return 1;
        }
        top->clk = 1;
        top->eval();
        position += taken;
        ++clocks;
    }
    const double seconds = double(std::clock() - begin) / CLOCKS_PER_SEC;
    std::printf("{\"cycles\": %llu, \"records\": %llu, \"clocks\": %llu, \"seconds\": %.6f}\n",
                static_cast<unsigned long long>(top->cycle), static_cast<unsigned long long>(records),
                static_cast<unsigned long long>(clocks), seconds);
    const bool same = top->cycle == link.cycles && records == link.records;
    top->final();
    if (!same) {
        std::fprintf(stderr, "recorded: cycle %llu, %llu records; here: cycle %llu, %llu records\n",
                     static_cast<unsigned long long>(link.cycles), static_cast<unsigned long long>(link.records),
                     static_cast<unsigned long long>(top->cycle), static_cast<unsigned long long>(records));
    }
    return same ? 0 : 1;
}
