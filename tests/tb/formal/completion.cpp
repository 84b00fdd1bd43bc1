// Random inputs for the harness of the proof of completion: how long is anything owed, at most?
//
//     sim TRIALS OPEN LIMIT [FIRST]
//
// prints "cycles trial" of the trial that took longest. In each trial every input bit is 0, 1 or a coin of its own.

#include "Vtop.h"
#include "verilated.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>

static uint64_t state;

static uint32_t coins() {
    // splitmix64 (Steele, Lea, Flood 2014)
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 16);
}

int main(int argc, char** argv) {
    if (argc < 4) return 2;
    const long trials = atol(argv[1]), open = atol(argv[2]), limit = atol(argv[3]);
    const long first = argc > 4 ? atol(argv[4]) : 0;
    VerilatedContext context;
    Vtop top(&context);
    const auto tick = [&] {
        top.clk = 1;
        top.eval();
        top.clk = 0;
        top.eval();
    };
    long longest = -1, which = -1;
    constexpr int WORDS = 3;
    for (long trial = first; trial < first + trials; ++trial) {
        state = static_cast<uint64_t>(trial) * 0x2545f4914f6cdd1du;
        uint32_t fair[WORDS], ones[WORDS];
        for (int i = 0; i < WORDS; ++i) {
            fair[i] = coins() | coins();
            ones[i] = coins() & ~fair[i];
        }
        top.rst = 1;
        tick();
        top.rst = 0;
        top.rows = static_cast<uint8_t>(coins());
        long cycle = 0;
        for (;; ++cycle) {
            for (int i = 0; i < WORDS; ++i) top.free[i] = (coins() & fair[i]) | ones[i];
            top.eval();
            if ((cycle >= open && !top.owes) || cycle == limit) break;
            tick();
        }
        if (cycle > longest) {
            longest = cycle;
            which = trial;
        }
    }
    printf("%ld %ld\n", longest, which);
    return 0;
}
